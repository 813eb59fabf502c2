//! A local directory whose puts are on the disk when they return.
//!
//! `object_store`'s own local store leaves writing back to the operating system. The write-ahead log is freed after a
//! commit, so that a commit and the segments it names must be on the disk by then, their directory entries included.

use std::collections::HashSet;
use std::fs::File;
use std::ops::Range;
use std::path::{Path as FsPath, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error as StoreError, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result as StoreResult, UploadPart,
};
use parking_lot::Mutex;

use super::direct::write_pieces;
use crate::error::{Error, ErrorKind, Result};

/// A directory as an object store; see the module's text.
#[derive(Clone, Debug)]
pub(crate) struct DurableDirectory {
    inner: Arc<LocalFileSystem>,
    directories: Arc<Directories>,
}

/// Which directories are known to be on the disk themselves, so that only a file's own directory is synced again.
#[derive(Debug)]
struct Directories {
    root: PathBuf,
    synced: Mutex<HashSet<PathBuf>>,
}

impl Directories {
    /// Makes a directory's entry, and its parents', durable up to the store's root.
    fn make(&self, directory: &FsPath) -> std::io::Result<()> {
        if self.synced.lock().contains(directory) {
            return Ok(());
        }
        std::fs::create_dir_all(directory)?;
        let mut parent = directory.parent();
        while let Some(path) = parent.filter(|path| path.starts_with(&self.root)) {
            sync_directory(path)?;
            parent = path.parent();
        }
        self.synced.lock().insert(directory.to_owned());
        Ok(())
    }

    fn forget(&self, directory: &FsPath) {
        self.synced.lock().remove(directory);
    }
}

fn sync_directory(path: &FsPath) -> std::io::Result<()> {
    File::open(path)?.sync_all()
}

impl DurableDirectory {
    /// Opens a directory that exists.
    pub(crate) fn open(root: &FsPath) -> Result<Self> {
        let failed = |source| {
            Error::new(ErrorKind::Invalid, format!("cannot open the store {}", root.display())).with_source(source)
        };
        let inner = Arc::new(LocalFileSystem::new_with_prefix(root).map_err(failed)?);
        // The root may have been made just now. Directories above it may belong to others and not be readable.
        for directory in root.ancestors() {
            if let Err(error) = sync_directory(directory) {
                tracing::debug!(path = %directory.display(), %error, "cannot sync a directory above the store");
            }
        }
        let directories = Directories { root: root.to_owned(), synced: Mutex::new(HashSet::new()) };
        Ok(Self { inner, directories: Arc::new(directories) })
    }
}

impl std::fmt::Display for DurableDirectory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DurableDirectory({})", self.directories.root.display())
    }
}

fn generic(source: std::io::Error) -> StoreError {
    StoreError::Generic { store: "DurableDirectory", source: Box::new(source) }
}

/// A staging file beside its destination, named the way `LocalFileSystem` names its own, so that listings skip it.
fn stage(destination: &FsPath, directories: &Directories) -> std::io::Result<(File, PathBuf)> {
    let directory = destination.parent().unwrap_or(&directories.root);
    directories.make(directory)?;
    let mut number = 1_u64;
    loop {
        let mut name = destination.as_os_str().to_owned();
        name.push(format!("#{number}"));
        let staged = PathBuf::from(name);
        match std::fs::OpenOptions::new().write(true).create_new(true).open(&staged) {
            Ok(file) => return Ok((file, staged)),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => number += 1,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                directories.forget(directory);
                directories.make(directory)?;
            }
            Err(error) => return Err(error),
        }
    }
}

/// Writes and syncs the content before the name appears: a crash leaves a whole object or none.
fn put_durably(destination: &FsPath, payload: &PutPayload, create: bool, directories: &Directories) -> StoreResult<()> {
    let (file, staged) = stage(destination, directories).map_err(generic)?;
    let publish = || -> std::io::Result<()> {
        write_pieces(&file, &staged, payload.as_ref())?;
        file.sync_all()?;
        if create { std::fs::hard_link(&staged, destination) } else { std::fs::rename(&staged, destination) }
    };
    let published = publish_and_clean(publish, &staged);
    published.map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists if create => {
            StoreError::AlreadyExists { path: destination.display().to_string(), source: Box::new(error) }
        }
        _ => generic(error),
    })?;
    sync_directory(destination.parent().unwrap_or(&directories.root)).map_err(generic)
}

/// The staging name goes in any case; after a rename it is gone already.
fn publish_and_clean(publish: impl FnOnce() -> std::io::Result<()>, staged: &FsPath) -> std::io::Result<()> {
    let published = publish();
    match std::fs::remove_file(staged) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            tracing::warn!(path = %staged.display(), %error, "cannot remove a staging file");
        }
        _ => {}
    }
    published
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> StoreResult<T> + Send + 'static) -> StoreResult<T> {
    tokio::task::spawn_blocking(work).await?
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl ObjectStore for DurableDirectory {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> StoreResult<PutResult> {
        let create = match opts.mode {
            PutMode::Create => true,
            PutMode::Overwrite => false,
            PutMode::Update(_) => {
                return Err(StoreError::NotImplemented {
                    operation: "put with mode update".to_owned(),
                    implementer: self.to_string(),
                });
            }
        };
        let destination = self.inner.path_to_filesystem(location)?;
        let directories = Arc::clone(&self.directories);
        blocking(move || put_durably(&destination, &payload, create, &directories)).await?;
        Ok(PutResult { e_tag: None, version: None })
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> StoreResult<Box<dyn MultipartUpload>> {
        let destination = self.inner.path_to_filesystem(location)?;
        let inner = self.inner.put_multipart_opts(location, opts).await?;
        Ok(Box::new(DurableUpload { inner, destination, directories: Arc::clone(&self.directories) }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> StoreResult<GetResult> {
        self.inner.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> StoreResult<Vec<Bytes>> {
        self.inner.get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, StoreResult<Path>>) -> BoxStream<'static, StoreResult<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, StoreResult<ObjectMeta>> {
        self.inner.list(prefix)
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, StoreResult<ObjectMeta>> {
        self.inner.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> StoreResult<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> StoreResult<()> {
        self.inner.copy_opts(from, to, options).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> StoreResult<()> {
        self.inner.rename_opts(from, to, options).await
    }
}

/// An upload in parts that syncs what it has put together.
#[derive(Debug)]
struct DurableUpload {
    inner: Box<dyn MultipartUpload>,
    destination: PathBuf,
    directories: Arc<Directories>,
}

#[async_trait]
impl MultipartUpload for DurableUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        self.inner.put_part(data)
    }

    async fn complete(&mut self) -> StoreResult<PutResult> {
        let result = self.inner.complete().await?;
        let (destination, directories) = (self.destination.clone(), Arc::clone(&self.directories));
        let sync = move || -> std::io::Result<()> {
            let directory = destination.parent().unwrap_or(&directories.root);
            directories.make(directory)?;
            File::open(&destination)?.sync_all()?;
            sync_directory(directory)
        };
        blocking(move || sync().map_err(generic)).await?;
        Ok(result)
    }

    async fn abort(&mut self) -> StoreResult<()> {
        self.inner.abort().await
    }
}

#[cfg(test)]
mod tests {
    use futures::TryStreamExt;
    use object_store::ObjectStoreExt;

    use super::*;

    #[tokio::test]
    async fn a_name_is_created_once_and_leaves_no_staging_file() {
        let directory = tempfile::tempdir().unwrap();
        let store = DurableDirectory::open(directory.path()).unwrap();
        let path = Path::from("a/b/0.json");
        let create = || PutOptions::from(PutMode::Create);
        store.put_opts(&path, "first".into(), create()).await.unwrap();
        let error = store.put_opts(&path, "second".into(), create()).await.unwrap_err();
        assert!(matches!(error, StoreError::AlreadyExists { .. }), "{error}");
        assert_eq!(store.get(&path).await.unwrap().bytes().await.unwrap(), "first");
        assert_eq!(std::fs::read_dir(directory.path().join("a/b")).unwrap().count(), 1);
    }

    #[tokio::test]
    async fn a_put_replaces_and_a_removed_directory_comes_back() {
        let directory = tempfile::tempdir().unwrap();
        let store = DurableDirectory::open(directory.path()).unwrap();
        let path = Path::from("a/x");
        store.put(&path, "one".into()).await.unwrap();
        store.put(&path, "two".into()).await.unwrap();
        assert_eq!(store.get(&path).await.unwrap().bytes().await.unwrap(), "two");
        std::fs::remove_dir_all(directory.path().join("a")).unwrap();
        store.put(&path, "three".into()).await.unwrap();
        assert_eq!(store.get(&path).await.unwrap().bytes().await.unwrap(), "three");
    }

    #[tokio::test]
    async fn an_upload_in_parts_appears_whole_when_it_is_complete() {
        let directory = tempfile::tempdir().unwrap();
        let store = DurableDirectory::open(directory.path()).unwrap();
        let path = Path::from("date=2026-01-01/x.parquet");
        let mut upload = store.put_multipart(&path).await.unwrap();
        upload.put_part("he".into()).await.unwrap();
        upload.put_part("llo".into()).await.unwrap();
        assert_eq!(store.list(None).try_collect::<Vec<_>>().await.unwrap().len(), 0);
        upload.complete().await.unwrap();
        assert_eq!(store.get(&path).await.unwrap().bytes().await.unwrap(), "hello");
    }
}
