//! Numbers as bytes. Every number has one encoding only: whatever else means the same is refused.

use crate::error::{Error, ErrorKind, Result};

pub(crate) fn put_varint(bytes: &mut Vec<u8>, mut value: u128) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

/// A signed number, small where its magnitude is small.
pub(crate) fn put_signed(bytes: &mut Vec<u8>, value: i128) {
    put_varint(bytes, (value << 1 ^ value >> 127) as u128);
}

/// Reads what was put, and knows where it is.
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// An error at this place.
    #[cold]
    pub(crate) fn corrupt(&self, what: &str) -> Error {
        Error::new(
            ErrorKind::Corrupt,
            format!("encoded histogram of {} bytes: {what} at byte {}", self.bytes.len(), self.at),
        )
    }

    /// Whether what was read is right, else an error saying what is wrong.
    pub(crate) fn check(&self, right: bool, what: &str) -> Result<()> {
        if right { Ok(()) } else { Err(self.corrupt(what)) }
    }

    pub(crate) fn remaining(&self) -> usize {
        self.bytes.len() - self.at
    }

    pub(crate) fn finish(&self) -> Result<()> {
        self.check(self.remaining() == 0, "bytes follow the end")
    }

    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let taken = self.bytes[self.at..].get(..count).ok_or_else(|| self.corrupt("it ends too early"))?;
        self.at += count;
        Ok(taken)
    }

    #[inline]
    pub(crate) fn byte(&mut self) -> Result<u8> {
        let byte = *self.bytes.get(self.at).ok_or_else(|| self.corrupt("it ends too early"))?;
        self.at += 1;
        Ok(byte)
    }

    #[inline]
    pub(crate) fn varint(&mut self) -> Result<u128> {
        let first = self.byte()?;
        if first < 0x80 { Ok(u128::from(first)) } else { self.long_varint(first) }
    }

    fn long_varint(&mut self, first: u8) -> Result<u128> {
        let mut value = u128::from(first & 0x7f);
        for shift in (7..128).step_by(7) {
            let byte = self.byte()?;
            let part = u128::from(byte & 0x7f);
            self.check(part << shift >> shift == part, "a number is too large")?;
            value |= part << shift;
            if byte < 0x80 {
                self.check(byte != 0, "a number is longer than it needs to be")?;
                return Ok(value);
            }
        }
        Err(self.corrupt("a number is too large"))
    }

    pub(crate) fn signed(&mut self) -> Result<i128> {
        let value = self.varint()?;
        Ok((value >> 1) as i128 ^ -((value & 1) as i128))
    }

    #[inline]
    pub(crate) fn u64(&mut self) -> Result<u64> {
        let value = self.varint()?;
        u64::try_from(value).map_err(|_| self.corrupt("a count is too large"))
    }

    /// Any double that keeps what the caller asks for.
    pub(crate) fn f64(&mut self, right: impl FnOnce(f64) -> bool, wrong: &str) -> Result<f64> {
        let bytes = self.take(8)?;
        let value = f64::from_le_bytes(bytes.try_into().expect("eight bytes were taken"));
        self.check(right(value), wrong)?;
        Ok(value)
    }
}
