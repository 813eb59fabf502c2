//! Large files written past the page cache.
//!
//! A segment is written once and synced at once; whether it will be read, nobody knows. Going through the page cache it costs
//! a copy into pages that have to be found and cleared first, and it drives out what is in use. Where a file system knows no
//! such writes, or refuses them, the file is written the ordinary way.

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Result, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use bytes::Bytes;
use rustix::fs::OFlags;

/// Smaller files are not worth it.
const FROM_BYTES: usize = 1 << 20;
/// A write at a time; pieces smaller than this are written together.
const WRITE_BYTES: usize = 1 << 20;
const BUFFERED_WRITE_BYTES: usize = 64 << 10;
/// What addresses, offsets and lengths of such writes are multiples of, on any disk in use.
const BLOCK_BYTES: usize = 4096;

/// Writes the pieces to a file that was made empty, one after the other.
///
/// # Errors
/// Where the disk refuses, a full one included. The file may then hold anything.
pub(super) fn write_pieces(file: &File, path: &Path, pieces: &[Bytes]) -> Result<()> {
    let size: usize = pieces.iter().map(Bytes::len).sum();
    if size >= FROM_BYTES
        && let Some(direct) = open_direct(path)
    {
        match write_direct(&direct, pieces, size) {
            Err(error) if error.kind() == std::io::ErrorKind::InvalidInput => file.set_len(0)?,
            written => return written,
        }
    }
    let mut buffered = BufWriter::with_capacity(BUFFERED_WRITE_BYTES, file);
    pieces.iter().try_for_each(|piece| buffered.write_all(piece))?;
    buffered.flush()
}

fn open_direct(path: &Path) -> Option<File> {
    let flags = i32::try_from(OFlags::DIRECT.bits()).ok()?;
    OpenOptions::new().write(true).custom_flags(flags).open(path).ok()
}

fn write_direct(file: &File, pieces: &[Bytes], size: usize) -> Result<()> {
    let mut memory = vec![0; WRITE_BYTES.min(size.next_multiple_of(BLOCK_BYTES)) + BLOCK_BYTES];
    let skipped = memory.as_ptr().align_offset(BLOCK_BYTES);
    let length = memory.len() - BLOCK_BYTES;
    let block = &mut memory[skipped..skipped + length];
    let (mut filled, mut at) = (0, 0);
    for piece in pieces {
        let mut rest = &piece[..];
        while !rest.is_empty() {
            let taken = rest.len().min(block.len() - filled);
            block[filled..filled + taken].copy_from_slice(&rest[..taken]);
            filled += taken;
            rest = &rest[taken..];
            if filled == block.len() {
                file.write_all_at(block, at)?;
                at += filled as u64;
                filled = 0;
            }
        }
    }
    if filled > 0 {
        let padded = filled.next_multiple_of(BLOCK_BYTES);
        block[filled..padded].fill(0);
        file.write_all_at(&block[..padded], at)?;
    }
    file.set_len(size as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: files of sizes around blocks and writes, in pieces of odd lengths. Guarantee: the file is the pieces, no more
    /// and no less, whichever way it went to the disk.
    #[test]
    fn a_file_is_its_pieces() {
        let directory = tempfile::tempdir().expect("a directory");
        for size in
            [0, 1, BLOCK_BYTES, FROM_BYTES - 1, FROM_BYTES, FROM_BYTES + 1, 3 * WRITE_BYTES - 5, 2 * WRITE_BYTES]
        {
            let bytes: Vec<u8> = (0..size).map(|at| (at / 7 + at % 251) as u8).collect();
            for length in [1 << 12, 100_003, usize::MAX] {
                let pieces: Vec<Bytes> = bytes.chunks(length).map(Bytes::copy_from_slice).collect();
                let path = directory.path().join("file");
                let file = File::create(&path).expect("a file");
                write_pieces(&file, &path, &pieces).expect("written");
                assert!(std::fs::read(&path).expect("read") == bytes, "{size} bytes in pieces of {length}");
                if size > 0 {
                    let direct = open_direct(&path);
                    if let Some(direct) = direct {
                        write_direct(&direct, &pieces, size).expect("written");
                        assert!(std::fs::read(&path).expect("read") == bytes, "{size} bytes directly");
                    }
                }
            }
        }
    }
}
