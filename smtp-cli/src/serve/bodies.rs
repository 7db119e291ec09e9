//! Where the large bodies of a shared queue are: in a folder that all nodes see, or in a bucket.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::Deserialize;

/// Where they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Bodies {
    /// In a folder.
    Folder(PathBuf),
    /// In the bucket of a store that speaks S3, below a prefix, which may be empty. What else there is to say about
    /// the store is in the environment (`AWS_…`).
    Bucket {
        /// The bucket.
        bucket: String,
        /// What the names of the objects begin with, without the slash behind it.
        prefix: String,
    },
}

impl FromStr for Bodies {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const WHAT: &str = "a bucket is s3://BUCKET or s3://BUCKET/PREFIX; keys, region and endpoint are in the \
                            environment (AWS_ACCESS_KEY_ID, AWS_REGION, AWS_ENDPOINT_URL and so on)";
        let Some(rest) = text.strip_prefix("s3://") else {
            return if text.contains("://") { Err(WHAT) } else { Ok(Self::Folder(text.into())) };
        };
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
        let prefix = prefix.trim_end_matches('/');
        if bucket.is_empty() || !bucket.chars().all(plain) || !prefix.chars().all(|c| plain(c) || c == '/') {
            return Err(WHAT);
        }
        Ok(Self::Bucket { bucket: bucket.to_owned(), prefix: prefix.to_owned() })
    }
}

impl<'de> Deserialize<'de> for Bodies {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

impl fmt::Display for Bodies {
    /// As it reads back.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(path) => path.display().fmt(f),
            Self::Bucket { bucket, prefix } if prefix.is_empty() => write!(f, "s3://{bucket}"),
            Self::Bucket { bucket, prefix } => write!(f, "s3://{bucket}/{prefix}"),
        }
    }
}

#[cfg(feature = "postgres")]
mod store {
    use std::path::Path;
    use std::sync::Arc;

    use object_store::ObjectStore;
    use object_store::local::LocalFileSystem;

    use super::Bodies;
    use crate::exit::Failure;
    use crate::serve::store::private_folder;

    impl Bodies {
        fn unusable(&self, why: impl std::fmt::Display) -> Failure {
            Failure::config(format!("--queue-bodies {self}: {why}"))
        }

        /// Whether this program can use it at all.
        ///
        /// # Errors
        /// If it was built without.
        pub(crate) fn check(&self) -> Result<(), Failure> {
            match self {
                Self::Bucket { .. } if cfg!(not(feature = "s3")) => Err(self
                    .unusable("this program was built without S3")
                    .help("`cargo build --release -p smtp-cli --features s3` builds one with it; a folder needs none")),
                Self::Bucket { .. } | Self::Folder(_) => Ok(()),
            }
        }

        /// The store. Nothing is asked of a bucket yet.
        ///
        /// # Errors
        /// If it cannot be used.
        pub(crate) fn open(&self) -> Result<Arc<dyn ObjectStore>, Failure> {
            match self {
                Self::Folder(path) => self.folder(path),
                #[cfg(feature = "s3")]
                Self::Bucket { bucket, prefix } => self.bucket(bucket, prefix),
                #[cfg(not(feature = "s3"))]
                Self::Bucket { .. } => Err(self.unusable("this program was built without S3")),
            }
        }

        /// The folder, made if it is not there, for its owner alone.
        fn folder(&self, path: &Path) -> Result<Arc<dyn ObjectStore>, Failure> {
            private_folder(path).map_err(|error| self.unusable(error))?;
            let store = LocalFileSystem::new_with_prefix(path).map_err(|error| self.unusable(error))?;
            // A 250 is on disk.
            Ok(Arc::new(store.with_fsync(true)))
        }

        #[cfg(feature = "s3")]
        fn bucket(&self, bucket: &str, prefix: &str) -> Result<Arc<dyn ObjectStore>, Failure> {
            use std::time::Duration;

            use object_store::RetryConfig;
            use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
            use object_store::prefix::PrefixStore;

            /// A sender waits for its 250 meanwhile, and tries again after a 451.
            const PATIENCE: Duration = Duration::from_secs(30);

            let mut builder = AmazonS3Builder::from_env().with_bucket_name(bucket).with_retry(RetryConfig {
                max_retries: 3,
                retry_timeout: PATIENCE,
                ..RetryConfig::default()
            });
            let keys = [AmazonS3ConfigKey::S3Endpoint, AmazonS3ConfigKey::Endpoint];
            let endpoint = keys.iter().find_map(|key| builder.get_config_value(key));
            if let Some(endpoint) = endpoint.filter(|endpoint| endpoint.starts_with("http://")) {
                tracing::warn!(endpoint, "the bodies of large messages go to their store in clear");
                builder = builder.with_allow_http(true);
            }
            let store = builder.build().map_err(|error| self.unusable(error))?;
            Ok(Arc::new(PrefixStore::new(store, prefix)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_and_buckets_read_what_they_write() {
        for (text, shown) in [
            ("/srv/mail/bodies", "/srv/mail/bodies"),
            ("bodies", "bodies"),
            ("s3://mail-bodies", "s3://mail-bodies"),
            ("s3://mail-bodies/", "s3://mail-bodies"),
            ("s3://mail.example.org/queue/one/", "s3://mail.example.org/queue/one"),
        ] {
            assert_eq!(text.parse::<Bodies>().unwrap().to_string(), shown);
        }
        for bad in ["s3://", "s3:///x", "s3://key:secret@bucket", "s3://bucket?region=x", "gs://bucket", "https://x/y"]
        {
            assert!(bad.parse::<Bodies>().unwrap_err().contains("AWS_ENDPOINT_URL"), "{bad}");
        }
    }
}
