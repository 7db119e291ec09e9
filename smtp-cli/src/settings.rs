//! Where settings come from: flag > environment > file > default.
//!
//! Each subcommand has one struct that is its command line (clap) and its file (serde) at once, so that an option is
//! described once and exists in both. Each long option can also be given as `SMTP_<SUBCOMMAND>_<OPTION>`
//! ([`with_environment`]). The file holds the same options as keys, with `_` or `-` between words.

use std::ffi::OsString;
use std::ops::Range;
use std::path::Path;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{ArgMatches, Command, FromArgMatches};
use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, Deserializer};

use crate::exit::Failure;

/// Options that several subcommands have; see [`group`].
pub(crate) trait Group: Default + DeserializeOwned {
    /// Their keys in a file.
    const KEYS: &[&str];

    /// Takes from `file` what was not `given` on the command line or in the environment.
    fn fill(&mut self, file: Self, given: &dyn Fn(&str) -> bool);
}

/// Implements [`Group`] for a struct, all of whose fields have to be listed.
macro_rules! group {
    ($options:ident { $($field:ident),+ $(,)? }) => {
        impl $crate::settings::Group for $options {
            const KEYS: &[&str] = &[$(stringify!($field)),+];

            fn fill(&mut self, file: Self, given: &dyn Fn(&str) -> bool) {
                let Self { $($field,)+ } = file;
                $(if !given(stringify!($field)) {
                    self.$field = $field;
                })+
            }
        }
    };
}
pub(crate) use group;

/// The options of a subcommand, which may come from several places; see [`layered`].
pub(crate) trait Layered: FromArgMatches + DeserializeOwned {
    /// Reads them from a file, those of its groups included.
    fn read(table: Table<'_>) -> Result<Self, Fault>;

    /// The file that `--config` names.
    fn file(&self) -> Option<&Path>;

    /// Takes from `file` what was not `given` on the command line or in the environment.
    fn fill(&mut self, file: Self, given: &dyn Fn(&str) -> bool);
}

/// Implements [`Layered`] for a struct with a field `config`; every other field has to be listed, once: as one that a
/// file may set, as a [`Group`], or as one that a file may not set.
macro_rules! layered {
    ($options:ident { $($field:ident),+ $(,)? } $(with { $($group:ident),+ })? except { $($fixed:ident),* }) => {
        impl $crate::settings::Layered for $options {
            fn read(table: $crate::settings::Table<'_>) -> Result<Self, $crate::settings::Fault> {
                #[allow(unused_mut, reason = "not all have groups")]
                let mut table = table;
                $($(let $group = table.group()?;)+)?
                #[allow(unused_mut, reason = "not all have groups")]
                let mut options: Self = table.rest()?;
                $($(options.$group = $group;)+)?
                Ok(options)
            }

            fn file(&self) -> Option<&std::path::Path> {
                self.config.as_deref()
            }

            fn fill(&mut self, file: Self, given: &dyn Fn(&str) -> bool) {
                let Self { config: _, $($field,)+ $($($group,)+)? $($fixed: _,)* } = file;
                $(if !given(stringify!($field)) {
                    self.$field = $field;
                })+
                $($($crate::settings::Group::fill(&mut self.$group, $group, given);)+)?
            }
        }
    };
}
pub(crate) use layered;

/// The command with an environment variable for each option of each subcommand. The help has the rule, not each name,
/// and never a value: some are secrets.
pub(crate) fn with_environment(command: Command) -> Command {
    command.mut_subcommands(|subcommand| {
        let prefix = subcommand.get_name().to_owned();
        let mut example = None;
        let subcommand = subcommand.mut_args(|arg| match arg.get_long() {
            Some(long) if !matches!(long, "help" | "version") => {
                let name = variable(&prefix, long);
                example.get_or_insert_with(|| format!("{name} for --{long}"));
                arg.env(name).hide_env(true).hide_env_values(true)
            }
            _ => arg,
        });
        match example {
            Some(example) => with_rule(subcommand, &example),
            None => subcommand,
        }
    })
}

/// The command with the rule for its variables below all else in its help.
fn with_rule(command: Command, example: &str) -> Command {
    let file = if command.get_arguments().any(|arg| arg.get_id() == "config") {
        ", and as a key of the file that --config names; a flag outweighs the environment, and that the file"
    } else {
        ""
    };
    let rule = format!("Each option can also be given in the environment, {example}{file}.");
    let below = |text: Option<String>| text.map_or_else(|| rule.clone(), |text| format!("{text}\n\n{rule}"));
    let short = below(command.get_after_help().map(ToString::to_string));
    let long = command.get_after_long_help().or(command.get_after_help()).map(ToString::to_string);
    command.after_help(short).after_long_help(below(long))
}

/// `SMTP_SERVE_DATA_DIR` for `data-dir` of `serve`.
fn variable(subcommand: &str, long: &str) -> String {
    format!("SMTP_{subcommand}_{long}").to_uppercase().replace('-', "_")
}

/// The settings of a subcommand, from all places but the defaults, which each has for itself.
///
/// # Errors
/// When the file cannot be used.
pub(crate) fn load<T: Layered>(matches: &ArgMatches) -> Result<T, Failure> {
    let mut options = T::from_arg_matches(matches).map_err(Failure::usage)?;
    if let Some(path) = options.file() {
        let file = file::<T>(path)?;
        let given =
            |id: &str| matches!(matches.value_source(id), Some(ValueSource::CommandLine | ValueSource::EnvVariable));
        options.fill(file, &given);
    }
    Ok(options)
}

/// What a file says, and nothing else.
///
/// # Errors
/// When it cannot be read or understood.
pub(crate) fn file<T: Layered>(path: &Path) -> Result<T, Failure> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        Failure::config(format!("cannot read the configuration {}: {error}", path.display()))
            .help("check the path given by --config")
    })?;
    parse(&text).map_err(|fault| fault.failure(path, &text))
}

/// What is wrong with a file, and where in it.
#[derive(Debug)]
pub(crate) struct Fault {
    what: String,
    help: Option<String>,
    at: Option<Range<usize>>,
}

/// What stands in a file, with one spelling of its keys.
pub(crate) struct Table<'a> {
    keys: Spanned<DeTable<'a>>,
    /// The keys that were taken out of it.
    groups: Vec<&'static str>,
}

impl<'a> Table<'a> {
    /// Takes the options of a group out of it.
    ///
    /// # Errors
    /// If a value is none.
    pub(crate) fn group<T: Group>(&mut self) -> Result<T, Fault> {
        let all = std::mem::take(self.keys.get_mut());
        let (own, rest) = all.into_iter().partition(|(key, _)| T::KEYS.contains(&&**key.get_ref()));
        *self.keys.get_mut() = rest;
        self.groups.extend(T::KEYS);
        let own: DeTable<'a> = own;
        Ok(T::deserialize(Deserializer::from(Spanned::new(self.keys.span(), own)))?)
    }

    /// What is left.
    ///
    /// # Errors
    /// If a key is unknown, or a value none.
    pub(crate) fn rest<T: DeserializeOwned>(self) -> Result<T, Fault> {
        T::deserialize(Deserializer::from(self.keys)).map_err(|error| Fault::new(&error, &self.groups))
    }
}

fn parse<T: Layered>(text: &str) -> Result<T, Fault> {
    let mut table = DeTable::parse(text)?;
    // One spelling for serde, both for people.
    let keys = std::mem::take(table.get_mut());
    *table.get_mut() = keys
        .into_iter()
        .map(|(mut key, value)| {
            if key.get_ref().contains('-') {
                *key.get_mut() = key.get_ref().replace('-', "_").into();
            }
            (key, value)
        })
        .collect();
    T::read(Table { keys: table, groups: Vec::new() })
}

impl From<toml::de::Error> for Fault {
    fn from(error: toml::de::Error) -> Self {
        Self::new(&error, &[])
    }
}

impl Fault {
    /// `more` are keys that are known beside those of which the error speaks.
    fn new(error: &toml::de::Error, more: &[&str]) -> Self {
        let at = error.span();
        let message = error.message();
        let Some((key, mut known)) = unknown_key(message) else {
            return Self { what: message.to_owned(), help: None, at };
        };
        known.extend(more);
        let near = nearest(key, known.iter().copied());
        let list = known.join(", ");
        let help = match near {
            Some(near) => format!("did you mean {near:?}? The keys are {list}"),
            None => format!("the keys are {list}"),
        };
        Self { what: format!("unknown key {key:?}"), help: Some(help), at }
    }
}

/// Takes serde's message apart: "unknown field `x`, expected one of `a`, `b`".
fn unknown_key(message: &str) -> Option<(&str, Vec<&str>)> {
    let (key, rest) = message.strip_prefix("unknown field `")?.split_once('`')?;
    Some((key, rest.split('`').skip(1).step_by(2).collect()))
}

/// The known word that `word` was most probably meant to be.
fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known
        .map(|known| (strsim::jaro_winkler(word, known), known))
        .filter(|(likeness, _)| *likeness > 0.75)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, known)| known)
}

impl Fault {
    fn failure(self, path: &Path, text: &str) -> Failure {
        let at = self.at.map(|at| place(text, at.start)).unwrap_or_default();
        let failure = Failure::config(format!("{}{at}: {}", path.display(), self.what));
        match self.help {
            Some(help) => failure.help(help),
            None => failure,
        }
    }
}

/// `:line:column`, both from 1.
fn place(text: &str, offset: usize) -> String {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    format!(":{line}:{column}")
}

/// What clap complains of, in the form of all our errors: the place is the flag, or the variable it came from.
pub(crate) fn usage(error: &clap::Error, arguments: &[OsString]) -> Failure {
    let text = error.render().to_string();
    let mut lines = text.lines().map(str::trim);
    let first = lines.by_ref().take_while(|line| !line.is_empty()).collect::<Vec<_>>().join(" ");
    let what = without_userinfo(first.strip_prefix("error: ").unwrap_or(&first));
    let tips: Vec<&str> = lines.filter_map(|line| line.strip_prefix("tip: ")).collect();
    let subcommand = arguments.iter().skip(1).filter_map(|word| word.to_str()).find(|word| !word.starts_with('-'));
    let failure = match blamed_variable(error, subcommand, arguments) {
        Some(name) => Failure::usage(format!("{what} (it comes from the environment variable {name})")),
        None => Failure::usage(what),
    };
    let page = subcommand
        .filter(|_| error.kind() != ErrorKind::InvalidSubcommand)
        .map_or_else(|| "smtp --help".to_owned(), |subcommand| format!("smtp {subcommand} --help"));
    match tips.first() {
        Some(tip) => failure.help(format!("{tip}; `{page}` tells more")),
        None => failure.help(format!("`{page}` tells what can be given")),
    }
}

/// The text without what stands before the `@` of a URL in it: it may be a password, and is not shown again.
fn without_userinfo(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else { return text.to_owned() };
    let end = rest.find(['/', '\'', ' ']).unwrap_or(rest.len());
    let (authority, tail) = rest.split_at(end);
    match authority.rsplit_once('@') {
        Some((_, host)) => format!("{scheme}://***@{host}{}", without_userinfo(tail)),
        None => format!("{scheme}://{authority}{}", without_userinfo(tail)),
    }
}

/// The environment variable that an invalid value came from, if it did not come from the command line.
fn blamed_variable(error: &clap::Error, subcommand: Option<&str>, arguments: &[OsString]) -> Option<String> {
    let Some(ContextValue::String(arg)) = error.get(ContextKind::InvalidArg) else { return None };
    let long = arg.strip_prefix("--")?.split([' ', '=', '[']).next()?;
    let flag = format!("--{long}");
    let on_command_line = arguments
        .iter()
        .filter_map(|word| word.to_str())
        .any(|word| word == flag || word.strip_prefix(&flag).is_some_and(|rest| rest.starts_with('=')));
    let name = variable(subcommand?, long);
    (!on_command_line && std::env::var_os(&name).is_some()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::values::{Size, Wait};
    use clap::{Args, Parser};
    use serde::Deserialize;
    use std::path::PathBuf;

    #[derive(Debug, Default, PartialEq, Args, Deserialize)]
    #[serde(deny_unknown_fields, default)]
    struct Options {
        #[arg(long)]
        #[serde(skip)]
        config: Option<PathBuf>,
        #[arg(long)]
        max_size: Option<Size>,
        #[arg(long)]
        timeout: Option<Wait>,
        #[arg(long)]
        #[serde(deserialize_with = "crate::values::list")]
        domain: Vec<String>,
        #[arg(long)]
        no_chunking: bool,
    }
    layered!(Options { max_size, timeout, domain, no_chunking } except {});

    #[derive(Debug, Parser)]
    enum Cli {
        Serve(Options),
    }

    /// The settings that come of a command line and a file. The environment is a process' own and is tested on the
    /// binary.
    fn settings(arguments: &[&str], file: &str) -> Result<Options, Failure> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("smtp.toml");
        std::fs::write(&path, file).unwrap();
        let command = <Cli as clap::CommandFactory>::command();
        let mut all = vec!["smtp", "serve", "--config", path.to_str().unwrap()];
        all.extend(arguments);
        let matches = command.try_get_matches_from(all).unwrap();
        let mut options: Options = load(matches.subcommand().unwrap().1)?;
        options.config = None;
        Ok(options)
    }

    #[test]
    fn a_flag_outweighs_the_file_and_the_file_fills_the_rest() {
        let file = "max_size = \"1 MiB\"\ndomain = [\"a.example\", \"b.example\"]\ntimeout = 2\nno-chunking = true";
        let options = settings(&["--max-size", "7", "--domain", "c.example"], file).unwrap();
        assert_eq!(options.max_size, Some(Size(7)));
        assert_eq!(options.domain, ["c.example"]);
        assert_eq!(options.timeout, "2".parse().ok());
        assert!(options.no_chunking);
    }

    #[test]
    fn the_example_in_the_readme_is_a_configuration() {
        let readme = include_str!("../README.md");
        let example = readme.split("```toml\n").nth(1).unwrap().split("```").next().unwrap();
        let parsed = parse::<crate::serve::Arguments>(example);
        assert!(parsed.is_ok(), "{:?}", parsed.unwrap_err());
    }

    #[test]
    fn a_list_may_be_one_value() {
        assert_eq!(settings(&[], "domain = \"a.example\"").unwrap().domain, ["a.example"]);
    }

    #[test]
    fn unknown_keys_are_told_with_line_and_suggestion() {
        let failure = settings(&[], "max_size = 5\n\n  max_sise = 7\n").unwrap_err();
        assert!(failure.what().contains("smtp.toml:3:3: unknown key \"max_sise\""), "{failure:?}");
        let help = format!("{failure:?}");
        assert!(help.contains("did you mean \\\"max_size\\\"?"), "{help}");
        assert_eq!(failure.exit().code(), 78);
        // Nothing is near it: the list has to do.
        assert!(!format!("{:?}", settings(&[], "zzz = 5").unwrap_err()).contains("did you mean"));
    }

    #[test]
    fn bad_values_and_bad_toml_are_told_with_their_line() {
        for (file, place, part) in [
            ("a = 1\nmax_size = = 1", ":2:", ""),
            ("\ntimeout = \"soon\"", ":2:11: ", "a time is"),
            ("no_chunking = \"yes\"", ":1:15: ", "expected a boolean"),
            ("domain = 7", ":1:10: ", "a text or a list of them"),
            ("config = \"x\"", ":1:1: ", "unknown key"),
        ] {
            let failure = settings(&[], file).unwrap_err();
            assert!(failure.what().contains(&format!("smtp.toml{place}")), "{failure:?}");
            assert!(failure.what().contains(part), "{failure:?}");
        }
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let command = <Cli as clap::CommandFactory>::command();
        let matches = command.try_get_matches_from(["smtp", "serve", "--config", "/nowhere/x.toml"]).unwrap();
        let failure = load::<Options>(matches.subcommand().unwrap().1).unwrap_err();
        assert!(failure.what().contains("/nowhere/x.toml"), "{failure:?}");
    }

    #[test]
    fn every_option_has_its_variable() {
        let mut command = with_environment(<Cli as clap::CommandFactory>::command());
        command.build();
        let serve = command.find_subcommand("serve").unwrap();
        for arg in serve.get_arguments().filter(|arg| arg.get_id() != "help") {
            let name = format!("SMTP_SERVE_{}", arg.get_id().as_str().to_uppercase());
            assert_eq!(arg.get_env().unwrap(), name.as_str());
            assert!(arg.is_hide_env_values_set());
        }
    }
}
