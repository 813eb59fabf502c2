//! A disk for the log that fails by seed, and that forgets at a crash what was not synced: bytes of files, and names.

use std::collections::HashMap;
use std::io::{self, IoSlice, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use spanlake_storage::wal::{Disk, DiskFile, LocalDisk};
use spanlake_testkit::SplitMix64;

/// What a write replaced, so that it can be undone.
#[derive(Debug)]
struct Unsynced {
    offset: u64,
    before: Vec<u8>,
}

/// A change of names that no sync of the directory has made durable.
#[derive(Debug)]
enum Rename {
    Created(PathBuf),
    /// From, to, and where that which had the name before lies now.
    Moved(PathBuf, PathBuf, Option<PathBuf>),
    Removed(PathBuf, PathBuf),
}

#[derive(Debug)]
struct State {
    random: SplitMix64,
    per_mille: u64,
    /// Whether syncs are answered with success and not done.
    is_lying: bool,
    /// Calls until the process dies.
    life: Option<u64>,
    unsynced: HashMap<PathBuf, Vec<Unsynced>>,
    /// The present names of open files, by that name.
    open: HashMap<PathBuf, Arc<Mutex<PathBuf>>>,
    renames: Vec<Rename>,
    trash: PathBuf,
    trashed: u64,
}

/// A directory on a real file system whose calls fail by seed; clones share it.
#[derive(Clone, Debug)]
pub(crate) struct SimulatedDisk(Arc<Mutex<State>>);

fn dead() -> io::Error {
    io::Error::other("the process is dead")
}

impl State {
    /// Whether a call fails, and how: not at all, or with this error.
    fn meet(&mut self) -> io::Result<()> {
        match self.life.as_mut() {
            Some(0) => return Err(dead()),
            Some(left) => *left -= 1,
            None => {}
        }
        if self.random.chance(self.per_mille) {
            let kinds = [io::ErrorKind::StorageFull, io::ErrorKind::Other];
            return Err(io::Error::new(*self.random.pick(&kinds), "injected disk failure"));
        }
        Ok(())
    }

    fn opened(&mut self, file: Box<dyn DiskFile>, path: &Path, shared: &Arc<Mutex<Self>>) -> Box<dyn DiskFile> {
        let name = Arc::new(Mutex::new(path.to_owned()));
        self.open.insert(path.to_owned(), Arc::clone(&name));
        Box::new(SimulatedFile { file, name, state: Arc::clone(shared) })
    }

    fn discarded(&mut self, path: &Path) -> io::Result<PathBuf> {
        self.trashed += 1;
        let to = self.trash.join(self.trashed.to_string());
        std::fs::rename(path, &to)?;
        Ok(to)
    }

    /// Undoes what was not synced, or some of it.
    fn forget(&mut self, path: &Path) -> io::Result<()> {
        let mut unsynced = self.unsynced.remove(path).unwrap_or_default();
        let Ok(mut file) = std::fs::OpenOptions::new().write(true).open(path) else { return Ok(()) };
        while let Some(write) = unsynced.pop() {
            // The disk may have written none of it, all, or a part from the front.
            let kept = match self.random.below(3) {
                0 => 0,
                1 => write.before.len(),
                _ => self.random.below(write.before.len() as u64 + 1) as usize,
            };
            file.seek(SeekFrom::Start(write.offset + kept as u64))?;
            file.write_all(&write.before[kept..])?;
        }
        Ok(())
    }
}

impl SimulatedDisk {
    pub(crate) fn new(seed: u64, trash: PathBuf) -> Self {
        std::fs::create_dir_all(&trash).expect("a directory");
        let state = State {
            random: SplitMix64::new(seed),
            per_mille: 0,
            is_lying: false,
            life: None,
            unsynced: HashMap::new(),
            open: HashMap::new(),
            renames: Vec::new(),
            trash,
            trashed: 0,
        };
        Self(Arc::new(Mutex::new(state)))
    }

    /// From now on so many calls in a thousand fail.
    pub(crate) fn fail(&self, per_mille: u64) {
        self.0.lock().per_mille = per_mille;
    }

    /// From now on no sync makes anything durable, and none says so. The simulation has to notice.
    pub(crate) fn lie(&self) {
        self.0.lock().is_lying = true;
    }

    /// After so many more calls all fail, until [`SimulatedDisk::crash`].
    pub(crate) fn die_after(&self, calls: u64) {
        self.0.lock().life = Some(calls);
    }

    /// What the machine finds after a crash: of what was not synced anything may be there or not.
    pub(crate) fn crash(&self) {
        let mut state = self.0.lock();
        let paths: Vec<PathBuf> = state.unsynced.keys().cloned().collect();
        for path in paths {
            state.forget(&path).expect("a file can be changed");
        }
        let renames = std::mem::take(&mut state.renames);
        let kept = state.random.below(renames.len() as u64 + 1) as usize;
        for rename in renames.into_iter().skip(kept).rev() {
            undo(&rename).expect("a name can be changed");
        }
        (state.life, state.per_mille) = (None, 0);
    }
}

fn undo(rename: &Rename) -> io::Result<()> {
    match rename {
        Rename::Created(path) => std::fs::remove_file(path),
        Rename::Moved(from, to, replaced) => {
            std::fs::rename(to, from)?;
            replaced.as_ref().map_or(Ok(()), |replaced| std::fs::rename(replaced, to))
        }
        Rename::Removed(path, trashed) => std::fs::rename(trashed, path),
    }
}

impl Disk for SimulatedDisk {
    fn create(&self, path: &Path, bytes: u64) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.0.lock();
        state.meet()?;
        if path.exists() {
            let replaced = state.discarded(path)?;
            state.renames.push(Rename::Removed(path.to_owned(), replaced));
        }
        let file = LocalDisk.create(path, bytes)?;
        state.unsynced.remove(path);
        state.renames.push(Rename::Created(path.to_owned()));
        Ok(state.opened(file, path, &self.0))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.0.lock();
        state.meet()?;
        let file = LocalDisk.open(path)?;
        Ok(state.opened(file, path, &self.0))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        state.meet()?;
        let replaced = if to.exists() { Some(state.discarded(to)?) } else { None };
        std::fs::rename(from, to)?;
        let unsynced = state.unsynced.remove(from);
        state.unsynced.remove(to);
        state.unsynced.extend(unsynced.map(|unsynced| (to.to_owned(), unsynced)));
        if let Some(name) = state.open.remove(from) {
            to.clone_into(&mut name.lock());
            state.open.insert(to.to_owned(), name);
        }
        state.renames.push(Rename::Moved(from.to_owned(), to.to_owned(), replaced));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        state.meet()?;
        if !path.exists() {
            return Err(io::ErrorKind::NotFound.into());
        }
        let trashed = state.discarded(path)?;
        state.unsynced.remove(path);
        state.renames.push(Rename::Removed(path.to_owned(), trashed));
        Ok(())
    }

    fn sync_dir(&self, _dir: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        state.meet()?;
        if !state.is_lying {
            state.renames.clear();
        }
        Ok(())
    }
}

#[derive(Debug)]
struct SimulatedFile {
    file: Box<dyn DiskFile>,
    /// Its present name.
    name: Arc<Mutex<PathBuf>>,
    state: Arc<Mutex<State>>,
}

impl DiskFile for SimulatedFile {
    fn write_at(&mut self, slices: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        let state = Arc::clone(&self.state);
        let mut state = state.lock();
        state.meet()?;
        let path = self.name.lock().clone();
        let all: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
        // Now and then a write comes out short.
        let most = if state.random.chance(100) { 1 + state.random.index(all.len().max(1)) } else { all.len() };
        let part = &all[..most.min(all.len())];
        let mut before = vec![0; part.len()];
        let mut file = std::fs::File::open(&path)?;
        file.seek(SeekFrom::Start(offset))?;
        let mut read = 0;
        while let Ok(count @ 1..) = file.read(&mut before[read..]) {
            read += count;
        }
        state.unsynced.entry(path).or_default().push(Unsynced { offset, before });
        let mut written = 0;
        while written < part.len() {
            written += self.file.write_at(&[IoSlice::new(&part[written..])], offset + written as u64)?;
        }
        Ok(written)
    }

    fn sync(&mut self) -> io::Result<()> {
        let state = Arc::clone(&self.state);
        let mut state = state.lock();
        if let Err(error) = state.meet() {
            if state.life != Some(0) && state.random.chance(500) {
                // What could not be written is dropped, and the next sync succeeds as if nothing had been.
                state.forget(&self.name.lock().clone())?;
            }
            return Err(error);
        }
        if !state.is_lying {
            state.unsynced.remove(&*self.name.lock());
        }
        Ok(())
    }

    fn truncate(&mut self, bytes: u64) -> io::Result<()> {
        let mut state = self.state.lock();
        state.meet()?;
        // Only a courtesy to readers: nothing may depend on its having taken place.
        state.unsynced.remove(&*self.name.lock());
        self.file.truncate(bytes)
    }
}
