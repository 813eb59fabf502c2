//! One leaf of a row group: its pages, their index, what the footer says of them.

use std::ops::Range;

use arrow::array::{Array, ArrayRef};
use bytes::Bytes;
use parking_lot::Mutex;
use parquet::basic::{Compression, Encoding, Type as PhysicalType};
use parquet::bloom_filter::Sbbf;
use parquet::column::writer::ColumnCloseResult;
use parquet::errors::ParquetError;
use parquet::file::metadata::{ColumnChunkMetaData, ColumnIndexBuilder, OffsetIndexBuilder};
use parquet::schema::types::ColumnDescPtr;

use super::bits::{width_of, write_bitmap, write_hybrid, write_run};
use super::bounds::Bounds;
use super::dictionary::Dictionary;
use super::leaves::{Leaf, Levels};
use super::page::{self, Compressor, Kind, write_with_length};
use super::values::{Values, bytes_of, text_of};
use crate::segment::properties;
use crate::{Error, ErrorKind, Result};

/// A page is closed at this many rows or bytes.
const PAGE_ROWS: usize = 20_000;
const PAGE_BYTES: usize = 1 << 20;
/// Pages are filled by pieces of a batch of at most this many rows or, where it has several rows, bytes.
const PIECE_ROWS: usize = 1024;
const PIECE_BYTES: usize = 256 << 10;
const BLOOM_FALSE_POSITIVES: f64 = 0.01;

/// How a leaf is written.
#[derive(Clone, Copy, Debug)]
pub(in crate::segment) struct Settings {
    /// Whether its values are likely to repeat.
    pub(in crate::segment) dictionary: bool,
    /// Whether bounds of chunk and pages are wanted.
    pub(in crate::segment) statistics: bool,
    pub(in crate::segment) bloom_filter: bool,
    pub(in crate::segment) compression: Compression,
}

/// A column chunk in memory.
pub(super) struct Chunk {
    pub(super) pages: Vec<Bytes>,
    pub(super) close: ColumnCloseResult,
}

/// Rows of one batch.
#[derive(Clone, Debug)]
struct Piece {
    batch: usize,
    rows: Range<usize>,
}

/// Encodes chunks one after the other; its memory serves for all of them.
pub(super) struct Encoder {
    compressor: Compressor,
    levels: Levels,
    values: Values,
    dictionary: Dictionary,
    body: Vec<u8>,
}

/// Encoders that nobody uses at the moment: their memory has been touched before.
static IDLE: Mutex<Vec<Encoder>> = Mutex::new(Vec::new());
const IDLE_MAX: usize = 4;
/// An encoder that had to take in more than this is not kept.
const IDLE_BYTES_MAX: usize = 8 << 20;

/// What the pages of a chunk come to.
struct Written {
    pages: Vec<Bytes>,
    /// Of all pages.
    bytes: usize,
    uncompressed_bytes: usize,
    dictionary_bytes: Option<usize>,
    encodings: Vec<Encoding>,
    entries: usize,
    offsets: OffsetIndexBuilder,
}

impl Written {
    fn new() -> Self {
        Self {
            pages: Vec::new(),
            bytes: 0,
            uncompressed_bytes: 0,
            dictionary_bytes: None,
            encodings: vec![Encoding::RLE],
            entries: 0,
            offsets: OffsetIndexBuilder::new(),
        }
    }

    fn dictionary(&mut self, dictionary: &Dictionary, compressor: &mut Compressor) -> Result<()> {
        let kind = Kind::Dictionary { values: dictionary.len() };
        self.append(kind, &dictionary.plain, compressor)?;
        self.dictionary_bytes = Some(self.bytes);
        self.encodings.extend([Encoding::PLAIN, Encoding::RLE_DICTIONARY]);
        Ok(())
    }

    /// Returns the page's bytes.
    fn append(&mut self, kind: Kind, body: &[u8], compressor: &mut Compressor) -> Result<usize> {
        let (page, uncompressed_bytes) = page::write(kind, body, compressor)?;
        let bytes = page.len();
        self.pages.push(page);
        self.bytes += bytes;
        self.uncompressed_bytes += uncompressed_bytes;
        Ok(bytes)
    }

    fn page(&mut self, rows: usize, kind: Kind, body: &[u8], compressor: &mut Compressor) -> Result<()> {
        let offset = self.bytes;
        let page_bytes = i32::try_from(self.append(kind, body, compressor)?)
            .map_err(|_| Error::new(ErrorKind::Invalid, "a page of a segment has more than 2 GiB"))?;
        self.offsets.append_row_count(rows as i64);
        self.offsets.append_offset_and_size(offset as i64, page_bytes);
        if let Kind::Data { entries, encoding } = kind {
            self.entries += entries;
            if !self.encodings.contains(&encoding) {
                self.encodings.push(encoding);
            }
        }
        Ok(())
    }
}

impl Encoder {
    /// One that is idle, or a new one.
    pub(super) fn take() -> Result<Self> {
        let idle = IDLE.lock().pop();
        idle.map_or_else(Self::new, Ok)
    }

    /// Leaves it to others.
    pub(super) fn give_back(self) {
        let mut idle = IDLE.lock();
        let bytes = self.body.capacity() + self.dictionary.indices.capacity() * size_of::<u32>();
        if idle.len() < IDLE_MAX && bytes <= IDLE_BYTES_MAX {
            idle.push(self);
        }
    }

    fn new() -> Result<Self> {
        let level = properties::ZSTD_LEVEL;
        Ok(Self {
            compressor: Compressor::new(level)?,
            levels: Levels::default(),
            values: Values::default(),
            dictionary: Dictionary::new(),
            body: Vec::new(),
        })
    }

    /// Encodes a leaf of some columns, one a batch, that are the same column of the table.
    pub(super) fn chunk(
        &mut self,
        leaf: &Leaf,
        descr: &ColumnDescPtr,
        columns: &[ArrayRef],
        settings: Settings,
    ) -> Result<Chunk> {
        let pages = pages_of(leaf, columns);
        let with_dictionary = match settings.dictionary {
            true => self.with_dictionary(leaf, columns, &pages)?,
            false => None,
        };
        let written = match with_dictionary {
            Some(written) => written,
            None => self.without_dictionary(leaf, descr, columns, &pages)?,
        };
        close(written, descr, columns, &pages, settings)
    }

    /// `None` where the values do not repeat enough.
    fn with_dictionary(&mut self, leaf: &Leaf, columns: &[ArrayRef], pages: &[Vec<Piece>]) -> Result<Option<Written>> {
        self.dictionary.clear();
        let dictionary = &mut self.dictionary;
        // Of each page its levels, its entries, and where its indices end.
        let mut parts = Vec::with_capacity(pages.len());
        for page in pages {
            self.levels.clear();
            for piece in page {
                let (array, slots) = leaf.levels(&columns[piece.batch], piece.rows.clone(), &mut self.levels);
                if !dictionary.add(text_of(&array), &slots) {
                    return Ok(None);
                }
            }
            self.body.clear();
            write_levels(&mut self.body, leaf, &self.levels);
            parts.push((self.body.clone(), self.levels.entries(), dictionary.indices.len()));
        }
        if dictionary.len() == 0 {
            return Ok(None);
        }
        let mut written = Written::new();
        written.dictionary(dictionary, &mut self.compressor)?;
        // A width of one even for a single value: some readers know no width of nothing.
        let width = width_of(dictionary.len() as u32 - 1).max(1);
        let mut from = 0;
        for (page, (levels, entries, to)) in pages.iter().zip(parts) {
            self.body.clear();
            self.body.extend_from_slice(&levels);
            self.body.push(width as u8);
            write_hybrid(&mut self.body, &dictionary.indices[from..to], width);
            from = to;
            let kind = Kind::Data { entries, encoding: Encoding::RLE_DICTIONARY };
            written.page(rows_of(page), kind, &self.body, &mut self.compressor)?;
        }
        Ok(Some(written))
    }

    fn without_dictionary(
        &mut self,
        leaf: &Leaf,
        descr: &ColumnDescPtr,
        columns: &[ArrayRef],
        pages: &[Vec<Piece>],
    ) -> Result<Written> {
        let mut written = Written::new();
        for page in pages {
            self.levels.clear();
            self.values.clear();
            for piece in page {
                let (array, slots) = leaf.levels(&columns[piece.batch], piece.rows.clone(), &mut self.levels);
                self.values.add(&array, &slots)?;
            }
            self.body.clear();
            write_levels(&mut self.body, leaf, &self.levels);
            let encoding = self.values.write(&mut self.body, &leaf.data_type, descr.type_length());
            let kind = Kind::Data { entries: self.levels.entries(), encoding };
            written.page(rows_of(page), kind, &self.body, &mut self.compressor)?;
        }
        Ok(written)
    }
}

fn rows_of(page: &[Piece]) -> usize {
    page.iter().map(|piece| piece.rows.len()).sum()
}

/// Cuts the rows into pages, by what the leaf holds of them.
fn pages_of(leaf: &Leaf, columns: &[ArrayRef]) -> Vec<Vec<Piece>> {
    let all = |column: &ArrayRef| bytes_of(&leaf.reach(column, 0..column.len()));
    if columns.iter().all(|column| all(column) == 0) {
        // Nothing but levels.
        let whole = |(batch, column): (usize, &ArrayRef)| Piece { batch, rows: 0..column.len() };
        return vec![columns.iter().enumerate().map(whole).collect()];
    }
    let mut pages = vec![Vec::new()];
    let (mut page_rows, mut page_bytes) = (0, 0);
    for (batch, column) in columns.iter().enumerate() {
        let mut from = 0;
        while from < column.len() {
            let mut rows = from..column.len().min(from + PIECE_ROWS);
            let mut bytes = bytes_of(&leaf.reach(column, rows.clone()));
            while bytes > PIECE_BYTES && rows.len() > 1 {
                rows.end = rows.start + rows.len() / 2;
                bytes = bytes_of(&leaf.reach(column, rows.clone()));
            }
            if page_rows > 0 && (page_rows + rows.len() > PAGE_ROWS || page_bytes + bytes > PAGE_BYTES) {
                pages.push(Vec::new());
                (page_rows, page_bytes) = (0, 0);
            }
            (page_rows, page_bytes) = (page_rows + rows.len(), page_bytes + bytes);
            from = rows.end;
            pages.last_mut().expect("there is a page from the start").push(Piece { batch, rows });
        }
    }
    pages
}

fn write_levels(body: &mut Vec<u8>, leaf: &Leaf, levels: &Levels) {
    if leaf.is_flat() {
        if leaf.is_nullable() {
            write_with_length(body, |body| match levels.valid_count {
                all if all == levels.rows => write_run(body, 1, levels.rows, 1),
                0 => write_run(body, 0, levels.rows, 1),
                _ => write_bitmap(body, &levels.valid, levels.rows),
            });
        }
        return;
    }
    let width = |max: u8| width_of(u32::from(max));
    write_with_length(body, |body| write_hybrid(body, &levels.repetition, width(leaf.repetition_max())));
    write_with_length(body, |body| write_hybrid(body, &levels.definition, width(leaf.definition_max())));
}

fn close(
    written: Written,
    descr: &ColumnDescPtr,
    columns: &[ArrayRef],
    pages: &[Vec<Piece>],
    settings: Settings,
) -> Result<Chunk> {
    let failed = |source: ParquetError| {
        let message = format!("cannot close column {} of a segment", descr.path().string());
        Error::new(ErrorKind::Invalid, message).with_source(source)
    };
    let data_offset = written.dictionary_bytes.unwrap_or(0) as i64;
    let mut metadata = ColumnChunkMetaData::builder(descr.clone())
        .set_compression(settings.compression)
        .set_encodings(written.encodings)
        .set_num_values(written.entries as i64)
        .set_total_compressed_size(written.bytes as i64)
        .set_total_uncompressed_size(written.uncompressed_bytes as i64)
        .set_data_page_offset(data_offset)
        .set_dictionary_page_offset(written.dictionary_bytes.map(|_| 0));
    let mut column_index = None;
    if settings.statistics {
        let (index, statistics) = bounds(descr.physical_type(), columns, pages).map_err(failed)?;
        column_index = index;
        if let Some(statistics) = statistics {
            metadata = metadata.set_statistics(statistics);
        }
    }
    let rows: usize = pages.iter().map(|page| rows_of(page)).sum();
    let bloom_filter = match settings.bloom_filter {
        true => Some(bloom_filter(columns, rows).map_err(failed)?),
        false => None,
    };
    let close = ColumnCloseResult {
        bytes_written: written.bytes as u64,
        rows_written: rows as u64,
        metadata: metadata.build().map_err(failed)?,
        bloom_filter,
        column_index,
        offset_index: Some(written.offsets.build()),
    };
    Ok(Chunk { pages: written.pages, close })
}

type Index = parquet::file::page_index::column_index::ColumnIndexMetaData;
type Told = (Option<Index>, Option<parquet::file::statistics::Statistics>);

/// The page index and the statistics of a flat column.
fn bounds(physical: PhysicalType, columns: &[ArrayRef], pages: &[Vec<Piece>]) -> Result<Told, ParquetError> {
    let mut index = ColumnIndexBuilder::new(physical);
    let (mut all, mut all_nulls, mut every_page_told) = (Bounds::None, 0, true);
    for page in pages {
        let (mut of_page, mut nulls) = (Bounds::None, 0);
        for piece in page {
            let array = columns[piece.batch].slice(piece.rows.start, piece.rows.len());
            let (found, told) = Bounds::of(&array);
            every_page_told &= told;
            nulls += array.null_count();
            of_page = of_page.merge(found);
        }
        let (min, max) = of_page.bytes();
        index.append(matches!(of_page, Bounds::None), min, max, nulls as i64);
        all_nulls += nulls as u64;
        all = all.merge(of_page);
    }
    if !every_page_told {
        return Ok((None, None));
    }
    Ok((Some(index.build()?), all.statistics(all_nulls)))
}

fn bloom_filter(columns: &[ArrayRef], rows: usize) -> Result<Sbbf, ParquetError> {
    let mut filter = Sbbf::new_with_ndv_fpp(rows.max(1) as u64, BLOOM_FALSE_POSITIVES)?;
    let mut last: &str = "";
    for column in columns {
        for value in text_of(column).iter().flatten() {
            // Spans of a trace often follow one another.
            if value != last || last.is_empty() {
                filter.insert(value);
                last = value;
            }
        }
    }
    Ok(filter)
}
