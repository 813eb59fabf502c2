//! Request bodies out of their compression, never beyond a limit.
//!
//! Every decoder writes into one buffer whose size is guessed from what the body says of itself. Where the guess was
//! too small the buffer is thrown away and a larger one is tried, up to the limit, so that at no time more than the
//! limit is allocated, whatever the body claims. A body either decompresses as a whole or not at all: what comes before
//! a cut or after a defect is never handed on.

use std::io::Read;

use bytes::Bytes;
use flate2::bufread::MultiGzDecoder;
use libdeflater::{DecompressionError, Decompressor};
use zstd::zstd_safe::zstd_sys::ZSTD_ErrorCode;
use zstd::zstd_safe::{self, DCtx};

use crate::receive::ContentEncoding;

/// Why a body was not decompressed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecompressError {
    /// The body is larger than the limit, as it came or decompressed.
    #[error("body is larger than the limit of {limit_bytes} bytes (message_limit)")]
    TooLarge {
        /// The limit.
        limit_bytes: usize,
    },
    /// The body is not what its encoding says, or is cut short.
    #[error("body is not valid {encoding}: {reason}")]
    Malformed {
        /// The name of the encoding.
        encoding: &'static str,
        /// What is wrong with it.
        reason: &'static str,
    },
}

/// Undoes `encoding`. The answer has at most `limit_bytes` bytes.
pub fn decompress(encoding: ContentEncoding, body: Bytes, limit_bytes: usize) -> Result<Bytes, DecompressError> {
    let (name, result) = match encoding {
        ContentEncoding::Identity if body.len() > limit_bytes => return Err(DecompressError::TooLarge { limit_bytes }),
        ContentEncoding::Identity => return Ok(body),
        ContentEncoding::Gzip => ("gzip", gzip(&body, limit_bytes)),
        ContentEncoding::Deflate => ("deflate", deflate(&body, limit_bytes)),
        ContentEncoding::Zstd => ("zstd", zstd(&body, limit_bytes)),
    };
    match result {
        Ok(decompressed) => Ok(Bytes::from(decompressed)),
        Err(Stop::Full) => Err(DecompressError::TooLarge { limit_bytes }),
        Err(Stop::Malformed(reason)) => Err(DecompressError::Malformed { encoding: name, reason }),
    }
}

/// Why a decoder stopped before the end.
#[derive(Debug, PartialEq, Eq)]
enum Stop {
    /// The buffer is too small.
    Full,
    Malformed(&'static str),
}

impl From<DecompressionError> for Stop {
    fn from(error: DecompressionError) -> Self {
        match error {
            DecompressionError::InsufficientSpace => Self::Full,
            DecompressionError::BadData => Self::Malformed("cut short or damaged"),
        }
    }
}

const AFTER_END: Stop = Stop::Malformed("bytes after the end");

/// A buffer that was too small is followed by one larger by this factor: the work done in vain is a third at most.
const GROWTH: usize = 4;

/// Guess of how much smaller compressed telemetry is, where the body does not say. Too large a guess costs little,
/// because memory that was not written to is not touched.
const USUAL_RATIO: usize = 16;

/// Calls `decode` with larger and larger buffers until all fits into one or the limit is reached.
fn with_buffer(
    guess_bytes: usize,
    limit_bytes: usize,
    mut decode: impl FnMut(&mut [u8]) -> Result<usize, Stop>,
) -> Result<Vec<u8>, Stop> {
    let mut size = guess_bytes.clamp(256, 256.max(limit_bytes)).min(limit_bytes);
    loop {
        let mut buffer = vec![0; size];
        match decode(&mut buffer) {
            Ok(written) => {
                buffer.truncate(written);
                // Bodies wait in memory until they are logged: do not let them hold much more than they are.
                if buffer.capacity() / 2 > written {
                    buffer.shrink_to_fit();
                }
                return Ok(buffer);
            }
            Err(Stop::Full) if size < limit_bytes => size = size.saturating_mul(GROWTH).min(limit_bytes),
            Err(stop) => return Err(stop),
        }
    }
}

/// The first bytes of a gzip member: magic number, and deflate as its method, the only one there is.
const GZIP_MAGIC: &[u8] = &[0x1f, 0x8b, 0x08];

/// Deflate cannot expand more than this.
const DEFLATE_RATIO_MAX: usize = 1032;

fn gzip(body: &[u8], limit_bytes: usize) -> Result<Vec<u8>, Stop> {
    if !body.starts_with(GZIP_MAGIC) {
        return Err(Stop::Malformed("not a gzip header"));
    }
    let usual_bytes = body.len().saturating_mul(USUAL_RATIO);
    // The fast decoder does not tell where a member ends. Without a second header there is no second member; with
    // something like one, which compressed data holds by chance now and then, the exact decoder decides.
    if memchr::memmem::find(&body[1..], GZIP_MAGIC).is_some() {
        return with_buffer(usual_bytes, limit_bytes, |buffer| read_whole(MultiGzDecoder::new(body), buffer));
    }
    let trailer = body.last_chunk::<4>().map_or(0, |size| u32::from_le_bytes(*size));
    let plausible = usize::try_from(trailer).ok().filter(|&size| size / DEFLATE_RATIO_MAX <= body.len());
    let mut decoder = Decompressor::new();
    with_buffer(plausible.unwrap_or(usual_bytes), limit_bytes, |buffer| {
        let written = decoder.gzip_decompress(body, buffer)?;
        // The member's own trailer was checked. It stands at the end of the body, unless something follows it.
        if written as u32 != trailer { Err(AFTER_END) } else { Ok(written) }
    })
}

fn read_whole(mut decoder: impl Read, buffer: &mut [u8]) -> Result<usize, Stop> {
    let damaged = |_| Stop::Malformed("cut short or damaged");
    let mut written = 0;
    while written < buffer.len() {
        match decoder.read(&mut buffer[written..]).map_err(damaged)? {
            0 => return Ok(written),
            read => written += read,
        }
    }
    match decoder.read(&mut [0]).map_err(damaged)? {
        0 => Ok(written),
        _ => Err(Stop::Full),
    }
}

fn deflate(body: &[u8], limit_bytes: usize) -> Result<Vec<u8>, Stop> {
    let guess_bytes = body.len().saturating_mul(USUAL_RATIO);
    let mut decoder = Decompressor::new();
    if is_zlib(body) {
        let trailer = body.last_chunk::<4>().map_or(0, |sum| u32::from_be_bytes(*sum));
        return with_buffer(guess_bytes, limit_bytes, |buffer| {
            let written = decoder.zlib_decompress(body, buffer)?;
            if libdeflater::adler32(&buffer[..written]) != trailer { Err(AFTER_END) } else { Ok(written) }
        });
    }
    with_buffer(guess_bytes, limit_bytes, |buffer| Ok(decoder.deflate_decompress(body, buffer)?))
}

/// Whether a body begins as RFC 1950 has it. No encoder writes a raw deflate stream that does: it would have to begin
/// with a stored block that is not the last one and has other than zeros in the bits that mean nothing.
fn is_zlib(body: &[u8]) -> bool {
    let &[method, flags, ..] = body else { return false };
    method & 0x0f == 8 && method >> 4 <= 7 && u16::from_be_bytes([method, flags]).is_multiple_of(31)
}

fn zstd(body: &[u8], limit_bytes: usize) -> Result<Vec<u8>, Stop> {
    let guess_bytes = match zstd_content_bytes(body)? {
        Some(size) if size > limit_bytes as u64 => return Err(Stop::Full),
        Some(size) => size as usize,
        None => body.len().saturating_mul(USUAL_RATIO),
    };
    let mut decoder = DCtx::try_create().ok_or(Stop::Malformed("no memory for a decoder"))?;
    // All frames in one go, into a buffer that holds all of them: the decoder then needs no window of its own,
    // however large a window the frames ask for.
    with_buffer(guess_bytes, limit_bytes, |buffer| {
        decoder.decompress(buffer, body).map_err(|code| match code.wrapping_neg() {
            code if code == ZSTD_ErrorCode::ZSTD_error_dstSize_tooSmall as usize => Stop::Full,
            code => Stop::Malformed(zstd_safe::get_error_name(code.wrapping_neg())),
        })
    })
}

/// The sum of what the frames' headers say; none where one of them says nothing.
fn zstd_content_bytes(body: &[u8]) -> Result<Option<u64>, Stop> {
    if body.is_empty() {
        return Err(Stop::Malformed("no frame"));
    }
    let mut rest = body;
    let mut sum = Some(0_u64);
    while !rest.is_empty() {
        let frame_bytes = zstd_safe::find_frame_compressed_size(rest)
            .map_err(|code| Stop::Malformed(zstd_safe::get_error_name(code)))?;
        let content = zstd_safe::get_frame_content_size(rest).map_err(|_| Stop::Malformed("not a frame header"))?;
        sum = sum.zip(content).map(|(sum, content)| sum.saturating_add(content));
        rest = rest.get(frame_bytes..).filter(|_| frame_bytes > 0).ok_or(Stop::Malformed("cut short"))?;
    }
    Ok(sum)
}

#[cfg(test)]
mod tests;
