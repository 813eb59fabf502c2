//! Pages: a header in Thrift's compact protocol, then the compressed body.
//!
//! Source: <https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift>.

use bytes::Bytes;
use parquet::basic::Encoding;

use super::bits::write_zigzag;
use crate::{Error, ErrorKind, Result};

/// Compresses pages one after the other; its memory serves for all of them.
pub(super) struct Compressor {
    zstd: zstd::bulk::Compressor<'static>,
    compressed: Vec<u8>,
}

impl Compressor {
    pub(super) fn new(level: i32) -> Result<Self> {
        let zstd = zstd::bulk::Compressor::new(level)
            .map_err(|source| Error::new(ErrorKind::Retry, "cannot set up zstd").with_source(source))?;
        Ok(Self { zstd, compressed: Vec::new() })
    }

    fn compress(&mut self, body: &[u8]) -> Result<&[u8]> {
        self.compressed.clear();
        self.compressed.reserve(zstd::zstd_safe::compress_bound(body.len()));
        self.zstd
            .compress_to_buffer(body, &mut self.compressed)
            .map_err(|source| Error::new(ErrorKind::Retry, "zstd cannot compress a page").with_source(source))?;
        Ok(&self.compressed)
    }
}

/// What a page holds.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    /// Levels and values.
    Data { entries: usize, encoding: Encoding },
    /// The values that indices refer to.
    Dictionary { values: usize },
}

/// A page, and its bytes before compression, the header included.
pub(super) fn write(kind: Kind, body: &[u8], compressor: &mut Compressor) -> Result<(Bytes, usize)> {
    let compressed = compressor.compress(body)?;
    let mut page = Vec::with_capacity(HEADER_BYTES_MAX + compressed.len());
    write_header(&mut page, kind, body.len(), compressed.len());
    let header_bytes = page.len();
    page.extend_from_slice(compressed);
    Ok((page.into(), header_bytes + body.len()))
}

/// What a header takes at most: six numbers of up to five bytes, the marks of fields and structs.
const HEADER_BYTES_MAX: usize = 48;
const STOP: u8 = 0;
const TYPE_FALSE: u8 = 2;
const TYPE_I32: u8 = 5;
const TYPE_STRUCT: u8 = 12;

fn write_header(out: &mut Vec<u8>, kind: Kind, body_bytes: usize, compressed_bytes: usize) {
    let field = |out: &mut Vec<u8>, delta: u8, field_type: u8| out.push(delta << 4 | field_type);
    let number = |out: &mut Vec<u8>, delta: u8, number: i64| {
        field(out, delta, TYPE_I32);
        write_zigzag(out, number);
    };
    let page_type = match kind {
        Kind::Data { .. } => 0,
        Kind::Dictionary { .. } => 2,
    };
    number(out, 1, page_type);
    number(out, 1, body_bytes as i64);
    number(out, 1, compressed_bytes as i64);
    match kind {
        Kind::Data { entries, encoding } => {
            field(out, 2, TYPE_STRUCT);
            number(out, 1, entries as i64);
            number(out, 1, code_of(encoding));
            number(out, 1, code_of(Encoding::RLE));
            number(out, 1, code_of(Encoding::RLE));
        }
        Kind::Dictionary { values } => {
            field(out, 4, TYPE_STRUCT);
            number(out, 1, values as i64);
            number(out, 1, code_of(Encoding::PLAIN));
            field(out, 1, TYPE_FALSE);
        }
    }
    out.extend_from_slice(&[STOP, STOP]);
}

/// An encoding's number in the format.
fn code_of(encoding: Encoding) -> i64 {
    match encoding {
        Encoding::PLAIN => 0,
        Encoding::RLE => 3,
        Encoding::DELTA_BINARY_PACKED => 5,
        Encoding::DELTA_LENGTH_BYTE_ARRAY => 6,
        Encoding::RLE_DICTIONARY => 8,
        Encoding::BYTE_STREAM_SPLIT => 9,
        other => panic!("pages are not written in encoding {other}"),
    }
}

/// Appends what `write` writes, behind its length in four bytes.
pub(super) fn write_with_length(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    write(out);
    let length = (out.len() - at - 4) as u32;
    out[at..at + 4].copy_from_slice(&length.to_le_bytes());
}
