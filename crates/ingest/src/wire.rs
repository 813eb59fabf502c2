//! The protobuf wire format, read without copying.
//! <https://protobuf.dev/programming-guides/encoding/>

use std::fmt;

/// Why a message cannot be read, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WireError {
    /// What is wrong.
    pub(crate) what: &'static str,
    /// The message being read, such as `Span`.
    pub(crate) message: &'static str,
    /// The field's number, where one was read.
    pub(crate) field: u32,
    /// Bytes from the start of the body.
    pub(crate) offset: usize,
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in field {} of {} at byte {}", self.what, self.field, self.message, self.offset)
    }
}

impl std::error::Error for WireError {}

/// What is wrong with a message that is well-formed, but would take more memory than its rows may.
const NO_ROOM: &str = "more content than there is room for";

impl WireError {
    /// Whether the message is well-formed as far as it was read, and too large.
    pub(crate) fn is_no_room(&self) -> bool {
        self.what == NO_ROOM
    }
}

/// A field's value as the wire holds it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Wire<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
    Fixed32(u32),
}

/// Reads the fields of one message.
#[derive(Clone, Debug)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
    end: usize,
    message: &'static str,
    field: u32,
}

const GROUP_DEPTH_MAX: usize = 32;

impl<'a> Reader<'a> {
    /// A reader over a whole body.
    pub(crate) fn new(body: &'a [u8], message: &'static str) -> Self {
        Self { rest: body, end: body.len(), message, field: 0 }
    }

    /// A reader that has read its whole body, for what was read out of it before.
    pub(crate) fn at_end(body: &'a [u8], message: &'static str) -> Self {
        Self { rest: &[], end: body.len(), message, field: 0 }
    }

    /// A reader over the bytes that the last field held, or over a part of them.
    pub(crate) fn inner(&self, bytes: &'a [u8], message: &'static str) -> Self {
        let end = self.offset();
        Self { rest: bytes, end, message, field: 0 }
    }

    fn offset(&self) -> usize {
        self.end - self.rest.len()
    }

    #[cold]
    #[inline(never)]
    fn error(&self, what: &'static str) -> WireError {
        WireError { what, message: self.message, field: self.field, offset: self.offset() }
    }

    /// The error where a message takes more memory than it may.
    #[cold]
    pub(crate) fn no_room(&self) -> WireError {
        self.error(NO_ROOM)
    }

    /// Bytes that are not read yet.
    pub(crate) fn rest_bytes(&self) -> usize {
        self.rest.len()
    }

    /// Nearly all tags and lengths take one byte.
    #[inline(always)]
    fn varint(&mut self) -> Result<u64, WireError> {
        match self.rest {
            [byte @ ..0x80, rest @ ..] => {
                self.rest = rest;
                Ok(u64::from(*byte))
            }
            [low, high @ ..0x80, rest @ ..] => {
                self.rest = rest;
                Ok(u64::from(low & 0x7f) | u64::from(*high) << 7)
            }
            _ => self.long_varint(),
        }
    }

    fn long_varint(&mut self) -> Result<u64, WireError> {
        let mut value = 0u64;
        for (index, &byte) in self.rest.iter().enumerate().take(10) {
            value |= u64::from(byte & 0x7f) << (7 * index);
            if byte < 0x80 {
                if index == 9 && byte > 1 {
                    return Err(self.error("varint over 64 bits"));
                }
                self.rest = &self.rest[index + 1..];
                return Ok(value);
            }
        }
        Err(self.error(if self.rest.len() < 10 { "truncated varint" } else { "varint over 64 bits" }))
    }

    #[inline(always)]
    fn take(&mut self, count: usize) -> Result<&'a [u8], WireError> {
        if count > self.rest.len() {
            return Err(self.error("truncated value"));
        }
        let (taken, rest) = self.rest.split_at(count);
        self.rest = rest;
        Ok(taken)
    }

    /// The next field, or `None` at the end.
    #[inline(always)]
    pub(crate) fn next(&mut self) -> Result<Option<(u32, Wire<'a>)>, WireError> {
        loop {
            if self.rest.is_empty() {
                return Ok(None);
            }
            let wire_type = self.tag()?;
            let value = match wire_type {
                0 => Wire::Varint(self.varint()?),
                1 => Wire::Fixed64(self.fixed64()?),
                2 => {
                    let length = usize::try_from(self.varint()?).unwrap_or(usize::MAX);
                    Wire::Bytes(self.take(length)?)
                }
                3 => {
                    self.skip_group()?;
                    continue;
                }
                5 => Wire::Fixed32(self.fixed32()?),
                _ => return Err(self.error("invalid wire type")),
            };
            return Ok(Some((self.field, value)));
        }
    }

    #[inline(always)]
    fn tag(&mut self) -> Result<u64, WireError> {
        let tag = self.varint()?;
        let field = tag >> 3;
        if field == 0 || field > 0x1fff_ffff {
            return Err(self.error("invalid field number"));
        }
        self.field = field as u32;
        Ok(tag & 7)
    }

    fn fixed64(&mut self) -> Result<u64, WireError> {
        let bytes = self.take(8)?;
        Ok(u64::from_le_bytes(bytes.try_into().unwrap_or_default()))
    }

    fn fixed32(&mut self) -> Result<u32, WireError> {
        let bytes = self.take(4)?;
        Ok(u32::from_le_bytes(bytes.try_into().unwrap_or_default()))
    }

    /// Skips a group, the deprecated way of nesting; OTLP has none, so it can only be an unknown field.
    fn skip_group(&mut self) -> Result<(), WireError> {
        let mut open = vec![self.field];
        while let Some(&innermost) = open.last() {
            match self.tag()? {
                0 => drop(self.varint()?),
                1 => drop(self.take(8)?),
                2 => {
                    let length = usize::try_from(self.varint()?).unwrap_or(usize::MAX);
                    self.take(length)?;
                }
                3 if open.len() < GROUP_DEPTH_MAX => open.push(self.field),
                3 => return Err(self.error("groups nested too deep")),
                4 if self.field == innermost => drop(open.pop()),
                4 => return Err(self.error("group ended by another field")),
                5 => drop(self.take(4)?),
                _ => return Err(self.error("invalid wire type")),
            }
        }
        Ok(())
    }

    /// The bytes of a string, bytes or message field.
    #[inline]
    pub(crate) fn bytes(&self, value: Wire<'a>) -> Result<&'a [u8], WireError> {
        match value {
            Wire::Bytes(bytes) => Ok(bytes),
            _ => Err(self.error("wrong wire type")),
        }
    }

    /// The value of a `uint32`, `int64`, `bool` or enum field.
    #[inline]
    pub(crate) fn integer(&self, value: Wire<'a>) -> Result<u64, WireError> {
        match value {
            Wire::Varint(number) => Ok(number),
            _ => Err(self.error("wrong wire type")),
        }
    }

    /// The value of a `fixed64` or `double` field.
    #[inline]
    pub(crate) fn eight(&self, value: Wire<'a>) -> Result<u64, WireError> {
        match value {
            Wire::Fixed64(number) => Ok(number),
            _ => Err(self.error("wrong wire type")),
        }
    }

    /// The values of a repeated `fixed64` or `double` field, packed or one by one.
    pub(crate) fn eights(&self, value: Wire<'a>, mut take: impl FnMut(u64)) -> Result<(), WireError> {
        match value {
            Wire::Fixed64(number) => take(number),
            Wire::Bytes(bytes) => {
                let (numbers, rest) = bytes.as_chunks();
                if !rest.is_empty() {
                    return Err(self.error("truncated value"));
                }
                numbers.iter().for_each(|number| take(u64::from_le_bytes(*number)));
            }
            _ => return Err(self.error("wrong wire type")),
        }
        Ok(())
    }

    /// The values of a repeated `uint64` field, packed or one by one.
    pub(crate) fn integers(&self, value: Wire<'a>, mut take: impl FnMut(u64)) -> Result<(), WireError> {
        match value {
            Wire::Varint(number) => take(number),
            Wire::Bytes(bytes) => {
                let mut packed = self.inner(bytes, self.message);
                while !packed.rest.is_empty() {
                    take(packed.varint()?);
                }
            }
            _ => return Err(self.error("wrong wire type")),
        }
        Ok(())
    }

    /// The bytes that are still to be read.
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// The value of a `fixed32` field.
    #[inline]
    pub(crate) fn four(&self, value: Wire<'a>) -> Result<u32, WireError> {
        match value {
            Wire::Fixed32(number) => Ok(number),
            _ => Err(self.error("wrong wire type")),
        }
    }
}
