//! Where a lake lies: a local directory or an object store.

mod direct;
mod local;

use std::path::{Path as FsPath, PathBuf};
use std::sync::Arc;

use object_store::ObjectStore;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, S3ConditionalPut};
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use spanlake_schema::{Ambient, System};
use url::Url;

use crate::error::{Error, ErrorKind, Result};
use local::DurableDirectory;

/// The root of a lake. Cheap to clone. Paths given to [`Store::object_store`] are relative to the root:
/// `default/spans/_delta_log/00000000000000000000.json`.
///
/// On a local directory an object is on the disk itself (file and directory synced) before a put returns.
#[derive(Clone, Debug)]
pub struct Store {
    url: String,
    objects: Arc<dyn ObjectStore>,
    local_root: Option<PathBuf>,
    ambient: Arc<dyn Ambient>,
}

impl Store {
    /// Opens a store: a directory (made where missing) or `file://`, `s3://bucket/prefix` with the usual `AWS_*`
    /// variables (`AWS_ENDPOINT_URL`, `AWS_REGION`, `AWS_ACCESS_KEY_ID`, …), `gs://` and `az://` where built in.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] where the URL cannot be read, its scheme is unknown or not built in.
    pub fn open(url: &str) -> Result<Self> {
        let environment =
            std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        Self::open_with_environment(url, environment)
    }

    /// Opens a store with other variables than those of the process. `gs://` and `az://` read the process's.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open_with_environment(url: &str, environment: impl IntoIterator<Item = (String, String)>) -> Result<Self> {
        let Some((scheme, _)) = url.split_once("://") else {
            return open_directory(FsPath::new(url));
        };
        let parsed = Url::parse(url).map_err(|source| invalid("cannot read the store's url").with_source(source))?;
        if !parsed.username().is_empty() || parsed.password().is_some() || parsed.query().is_some() {
            return Err(invalid("the store's url holds credentials or options, which belong into the environment"));
        }
        match scheme {
            "file" => {
                let path = parsed.to_file_path().map_err(|()| invalid(format!("{url} names no local directory")))?;
                open_directory(&path)
            }
            "s3" | "s3a" => {
                let bucket = bucket_of(&parsed)?;
                rooted("s3", bucket, &parsed, open_s3(bucket, environment.into_iter())?)
            }
            "gs" => rooted("gs", bucket_of(&parsed)?, &parsed, open_gcs(bucket_of(&parsed)?)?),
            "az" | "azure" => rooted("az", bucket_of(&parsed)?, &parsed, open_azure(bucket_of(&parsed)?)?),
            _ => Err(invalid(format!("unknown scheme {scheme} of the store, expected a directory, s3, gs or az"))),
        }
    }

    /// A store over an object store of the caller's, already rooted: for tests and fault injection.
    pub fn with_object_store(url: impl Into<String>, objects: Arc<dyn ObjectStore>) -> Self {
        Self { url: url.into(), objects, local_root: None, ambient: Arc::new(System) }
    }

    /// Takes time and randomness from elsewhere than the operating system.
    #[must_use]
    pub fn with_ambient(mut self, ambient: Arc<dyn Ambient>) -> Self {
        self.ambient = ambient;
        self
    }

    /// The canonical URL, without credentials.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The objects below the root.
    pub fn object_store(&self) -> Arc<dyn ObjectStore> {
        Arc::clone(&self.objects)
    }

    /// The directory, where the store is a local one.
    pub fn local_root(&self) -> Option<&FsPath> {
        self.local_root.as_deref()
    }

    /// Clock and randomness.
    pub fn ambient(&self) -> &Arc<dyn Ambient> {
        &self.ambient
    }
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Invalid, message)
}

fn open_directory(path: &FsPath) -> Result<Store> {
    let failed =
        |source: std::io::Error| invalid(format!("cannot open the store {}", path.display())).with_source(source);
    if path.as_os_str().is_empty() {
        return Err(invalid("the store's path is empty"));
    }
    std::fs::create_dir_all(path).map_err(failed)?;
    let root = path.canonicalize().map_err(failed)?;
    let url = Url::from_file_path(&root)
        .map_err(|()| invalid(format!("the store's path {} makes no url", root.display())))?
        .to_string();
    let objects = Arc::new(DurableDirectory::open(&root)?);
    Ok(Store { url, objects, local_root: Some(root), ambient: Arc::new(System) })
}

fn bucket_of(url: &Url) -> Result<&str> {
    url.host_str().filter(|host| !host.is_empty()).ok_or_else(|| invalid(format!("{url} names no bucket")))
}

fn rooted(scheme: &str, bucket: &str, url: &Url, objects: Arc<dyn ObjectStore>) -> Result<Store> {
    let prefix = Path::from_url_path(url.path())
        .map_err(|source| invalid(format!("cannot read the prefix of {url}")).with_source(source))?;
    if prefix.as_ref().is_empty() {
        return Ok(Store::with_object_store(format!("{scheme}://{bucket}"), objects));
    }
    let canonical = format!("{scheme}://{bucket}/{prefix}");
    Ok(Store::with_object_store(canonical, Arc::new(PrefixStore::new(objects, prefix))))
}

/// An empty variable counts as unset: Compose files and unit files pass them so.
fn open_s3(bucket: &str, environment: impl Iterator<Item = (String, String)>) -> Result<Arc<dyn ObjectStore>> {
    let mut builder = AmazonS3Builder::new();
    for (name, value) in environment.filter(|(name, value)| name.starts_with("AWS_") && !value.is_empty()) {
        if let Ok(key) = name.to_ascii_lowercase().parse::<AmazonS3ConfigKey>() {
            builder = builder.with_config(key, value);
        }
    }
    let endpoint = [AmazonS3ConfigKey::S3Endpoint, AmazonS3ConfigKey::Endpoint]
        .iter()
        .find_map(|key| builder.get_config_value(key))
        .unwrap_or_default();
    if endpoint.starts_with("http://") {
        builder = builder.with_allow_http(true);
    }
    // Path style is the builder's default, and AWS_VIRTUAL_HOSTED_STYLE_REQUEST has been read above. Commits rest on
    // the conditional put, so that no variable may turn it off.
    let built = builder.with_bucket_name(bucket).with_conditional_put(S3ConditionalPut::ETagMatch).build();
    let store = built.map_err(|source| invalid(format!("cannot open the bucket {bucket}")).with_source(source))?;
    Ok(Arc::new(store))
}

#[cfg(feature = "gcs")]
fn open_gcs(bucket: &str) -> Result<Arc<dyn ObjectStore>> {
    let built = object_store::gcp::GoogleCloudStorageBuilder::from_env().with_bucket_name(bucket).build();
    let store = built.map_err(|source| invalid(format!("cannot open the bucket {bucket}")).with_source(source))?;
    Ok(Arc::new(store))
}

#[cfg(not(feature = "gcs"))]
fn open_gcs(bucket: &str) -> Result<Arc<dyn ObjectStore>> {
    Err(invalid(format!("cannot open gs://{bucket}, this binary was built without the feature gcs")))
}

#[cfg(feature = "azure")]
fn open_azure(container: &str) -> Result<Arc<dyn ObjectStore>> {
    let built = object_store::azure::MicrosoftAzureBuilder::from_env().with_container_name(container).build();
    let store =
        built.map_err(|source| invalid(format!("cannot open the container {container}")).with_source(source))?;
    Ok(Arc::new(store))
}

#[cfg(not(feature = "azure"))]
fn open_azure(container: &str) -> Result<Arc<dyn ObjectStore>> {
    Err(invalid(format!("cannot open az://{container}, this binary was built without the feature azure")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_directory_is_made_and_named_by_its_absolute_url() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a b/lake");
        let store = Store::open(path.to_str().unwrap()).unwrap();
        assert!(path.is_dir());
        assert!(store.url().starts_with("file:///") && store.url().ends_with("/a%20b/lake"), "{}", store.url());
        assert_eq!(store.local_root().unwrap(), path.canonicalize().unwrap());
        assert_eq!(Store::open(store.url()).unwrap().url(), store.url());
    }

    #[test]
    fn an_s3_url_is_canonical_and_takes_no_credentials() {
        let store = Store::open("s3://bucket/some/prefix/").unwrap();
        assert_eq!(store.url(), "s3://bucket/some/prefix");
        assert_eq!(store.local_root(), None);
        let error = Store::open("s3://key:secret@bucket/prefix").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(!error.to_string().contains("secret"), "{error}");
    }

    #[test]
    fn schemes_that_are_unknown_or_not_built_in_are_refused_by_name() {
        assert!(Store::open("ftp://host/x").unwrap_err().to_string().contains("ftp"));
        if cfg!(not(feature = "gcs")) {
            assert!(Store::open("gs://bucket/x").unwrap_err().to_string().contains("feature gcs"));
        }
        if cfg!(not(feature = "azure")) {
            assert!(Store::open("az://bucket/x").unwrap_err().to_string().contains("feature azure"));
        }
    }

    #[test]
    fn an_http_endpoint_is_allowed_and_empty_variables_count_as_unset() {
        let variables = environment(&[
            ("AWS_ENDPOINT_URL", "http://127.0.0.1:9000"),
            ("AWS_ENDPOINT_URL_S3", ""),
            ("AWS_ACCESS_KEY_ID", "key"),
            ("AWS_SECRET_ACCESS_KEY", "secret"),
            ("AWS_CONDITIONAL_PUT", "disabled"),
        ]);
        let store = open_s3("bucket", variables.into_iter()).unwrap();
        let shown = format!("{store:?}");
        assert!(shown.contains("http://127.0.0.1:9000/bucket"), "{shown}");
        assert!(shown.contains("ETagMatch"), "{shown}");
    }
}
