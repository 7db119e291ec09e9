//! What a configuration means, in its own form.

use std::fmt;

use super::Plan;
use super::spooling::Place;
use crate::transport::EarlyDataChoice;

impl fmt::Display for Plan {
    /// A configuration with every default written out, but for those that are found out at the start. No secret is in it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        list(f, "listen", &self.urls)?;
        one(f, "hostname", Some(&self.hostname))?;
        list(f, "domain", &self.domains)?;
        list(f, "mailbox", &self.mailboxes)?;
        one(f, "alias_file", self.alias_file.as_ref().map(|path| path.display()))?;
        one(f, "tag_separator", Some(self.separator))?;
        list(f, "quota", &self.quotas)?;
        one(f, "program_user", self.program_user.as_ref())?;
        one(f, "data_dir", Some(self.data_dir.display()))?;
        one(f, "run_as", self.run_as.as_ref())?;
        one(f, "user_file", self.user_file.as_ref().map(|path| path.display()))?;
        if !self.users.is_empty() {
            writeln!(f, "# user: {} with passwords that are not shown", self.users.len())?;
        }
        writeln!(f, "max_size = {}", self.message_size())?;
        let files = self.identity_files.as_ref();
        one(f, "tls_cert", files.map(|(cert, _)| cert.display()))?;
        one(f, "tls_key", files.map(|(_, key)| key.display()))?;
        one(f, "tls_client_ca", self.client_ca.as_ref().map(|path| path.display()))?;
        writeln!(f, "tls_key_log = {}", self.key_log)?;
        let early_data = match self.quic.early_data {
            EarlyDataChoice::Off => "off",
            EarlyDataChoice::Gated => "gated",
        };
        one(f, "early_data", Some(early_data))?;
        one(f, "qlog_dir", self.quic.qlog_dir.as_ref().map(|path| path.display()))?;
        writeln!(f, "drain_deadline = {}", self.drain_time().as_secs_f64())?;
        one(f, "queue", Some(self.queue.as_ref().map_or_else(|| "none".into(), ToString::to_string)))?;
        one(f, "queue_bodies", self.queue.as_ref().and_then(Place::bodies))?;
        if let Some(lease) = self.queue.as_ref().and_then(Place::lease) {
            writeln!(f, "queue_lease = {}", lease.0.as_secs_f64())?;
        }
        one(f, "sendmail_socket", self.sendmail_socket.as_ref().map(|path| path.display()))?;
        one(f, "relay_host", self.relay_host.as_ref())?;
        list(f, "route", &self.routes)?;
        list(f, "relay_domain", &self.relay_domains)?;
        list(f, "tls_policy", &self.tls_policies)?;
        writeln!(f, "dnssec = {}", super::ways::validates(self))?;
        one(f, "dnssec_anchor", self.dnssec_anchor.as_ref().map(|path| path.display()))?;
        let schedule = &self.schedule;
        let retries: Vec<_> = schedule.retries.iter().map(|wait| wait.as_secs_f64().to_string()).collect();
        list(f, "queue_retry", &retries)?;
        writeln!(f, "queue_lifetime = {}", schedule.lifetime.as_secs_f64())?;
        writeln!(f, "queue_delay_notice = {}", schedule.delay_notice.as_secs_f64())?;
        list(f, "destination_limit", &self.limits)?;
        list(f, "etrn", &self.etrn)?;
        one(f, "no_soliciting", self.terms.no_soliciting.as_ref())?;
        if self.terms.deliver_by_min > 0 {
            writeln!(f, "deliver_by_min = {}", self.terms.deliver_by_min)?;
        }
        one(f, "priority_profile", self.terms.priority_profile.map(str::to_lowercase))?;
        writeln!(f, "hold_max = {}", self.terms.hold_max)?;
        list(f, "dns", &self.dns)?;
        list(f, "own_address", &self.own_addresses)?;
        list(f, "source_address", &self.source.iter().collect::<Vec<_>>())?;
        self.mx_port.map_or(Ok(()), |port| writeln!(f, "mx_port = {port}"))?;
        one(f, "mx_tls_ca", self.mx_tls_ca.as_ref().map(|path| path.display()))?;
        self.mx_sts_port.map_or(Ok(()), |port| writeln!(f, "mx_sts_port = {port}"))
    }
}

fn one(f: &mut fmt::Formatter<'_>, key: &str, value: Option<impl fmt::Display>) -> fmt::Result {
    value.map_or(Ok(()), |value| writeln!(f, "{key} = {}", quoted(value)))
}

fn list<T: fmt::Display>(f: &mut fmt::Formatter<'_>, key: &str, values: &[T]) -> fmt::Result {
    if values.is_empty() {
        return Ok(());
    }
    let values: Vec<String> = values.iter().map(quoted).collect();
    writeln!(f, "{key} = [{}]", values.join(", "))
}

/// A TOML string.
fn quoted(value: impl fmt::Display) -> String {
    toml::Value::String(value.to_string()).to_string()
}
