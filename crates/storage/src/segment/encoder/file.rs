//! A file in pieces: the pages stay where they were compressed, what the `parquet` crate writes stands between them.

use std::io::{Read, Write};
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::reader::{ChunkReader, Length};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::TypePtr;

use super::chunk::Chunk;

/// Lays out a file. The crate is shown zeros for each column chunk and keeps count of them; its own bytes (magic, Bloom
/// filters, page index, footer) are kept. A file of tens of megabytes is copied nowhere that way, nor is memory for it sought.
pub(super) struct FileInPieces {
    writer: SerializedFileWriter<Gaps>,
    gaps: Arc<Mutex<Vec<Range<u64>>>>,
    pages: Vec<Vec<Bytes>>,
}

impl FileInPieces {
    pub(super) fn new(schema: TypePtr, properties: WriterProperties) -> Result<Self, ParquetError> {
        let gaps = Arc::default();
        let sink = Gaps { gaps: Arc::clone(&gaps), at: 0, next: 0, kept: vec![Vec::new()] };
        let writer = SerializedFileWriter::new(sink, schema, Arc::new(properties))?;
        Ok(Self { writer, gaps, pages: Vec::new() })
    }

    pub(super) fn append_row_group(&mut self, chunks: Vec<Chunk>) -> Result<(), ParquetError> {
        let mut at = self.writer.bytes_written() as u64;
        let mut row_group = self.writer.next_row_group()?;
        for chunk in chunks {
            let bytes = chunk.close.bytes_written;
            if bytes > 0 {
                // Noted before its first byte can arrive.
                self.gaps.lock().push(at..at + bytes);
                self.pages.push(chunk.pages);
            }
            row_group.append_column(&Zeros { bytes }, chunk.close)?;
            at += bytes;
        }
        row_group.close()?;
        Ok(())
    }

    /// The bytes of the file, one piece after the other.
    pub(super) fn finish(self) -> Result<Vec<Bytes>, ParquetError> {
        let kept = self.writer.into_inner()?.kept.into_iter().map(Bytes::from);
        let mut pages = self.pages.into_iter();
        let pieces = kept.flat_map(|kept| std::iter::once(kept).chain(pages.next().unwrap_or_default()));
        Ok(pieces.filter(|piece| !piece.is_empty()).collect())
    }
}

/// Keeps what does not fall into a gap, cut where the gaps are.
struct Gaps {
    gaps: Arc<Mutex<Vec<Range<u64>>>>,
    at: u64,
    /// The first gap that does not lie before `at`.
    next: usize,
    kept: Vec<Vec<u8>>,
}

impl Gaps {
    fn keep(&mut self, bytes: &[u8]) {
        self.kept.last_mut().expect("there is a piece from the start").extend_from_slice(bytes);
    }
}

impl Write for Gaps {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let gap = self.gaps.lock().get(self.next).cloned();
        let taken = match gap {
            Some(gap) if gap.start <= self.at => {
                let taken = bytes.len().min((gap.end - self.at) as usize);
                if self.at + taken as u64 == gap.end {
                    self.next += 1;
                    self.kept.push(Vec::new());
                }
                taken
            }
            Some(gap) => {
                let taken = bytes.len().min((gap.start - self.at) as usize);
                self.keep(&bytes[..taken]);
                taken
            }
            None => {
                self.keep(bytes);
                bytes.len()
            }
        };
        self.at += taken as u64;
        Ok(taken)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// So many zeros.
struct Zeros {
    bytes: u64,
}

impl Length for Zeros {
    fn len(&self) -> u64 {
        self.bytes
    }
}

impl ChunkReader for Zeros {
    type T = std::io::Take<std::io::Repeat>;

    /// From where the chunk began, in a file of its own or in one that it is copied from.
    fn get_read(&self, _start: u64) -> Result<Self::T, ParquetError> {
        Ok(std::io::repeat(0).take(self.bytes))
    }

    fn get_bytes(&self, _start: u64, length: usize) -> Result<Bytes, ParquetError> {
        Ok(vec![0; length].into())
    }
}
