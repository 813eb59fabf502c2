//! Walks JSON text by the tables of `schema.rs` and writes protobuf.

use super::DEPTH_LIMIT;
use super::error::{Failure, JsonError};
use super::reader::{Reader, too_deep};
use super::schema::{EnumNames, Field, Kind, Message};
use super::value;

const WIRE_VARINT: u32 = 0;
const WIRE_FIXED64: u32 = 1;
const WIRE_LENGTH: u32 = 2;
const WIRE_FIXED32: u32 = 5;

/// Reads `body` as one `message`.
pub(super) fn transcode(body: &[u8], message: &'static Message) -> Result<Vec<u8>, JsonError> {
    if simdutf8::basic::from_utf8(body).is_err() {
        let valid = std::str::from_utf8(body).map_or_else(|error| error.valid_up_to(), str::len);
        return Err(Failure::new("not UTF-8", valid).locate(body));
    }
    // A byte order mark is not JSON, but some platforms write one.
    let (mark_bytes, text) = match body.strip_prefix(b"\xef\xbb\xbf") {
        Some(rest) => (body.len() - rest.len(), rest),
        None => (0, body),
    };
    let out = Vec::with_capacity(text.len() / 2);
    let mut transcoder = Transcoder { reader: Reader::new(text), out, ranges: Vec::new() };
    match transcoder.document(message) {
        Ok(()) => Ok(transcoder.out),
        Err(failure) => Err(failure.after(mark_bytes).locate(body)),
    }
}

struct Transcoder<'a> {
    reader: Reader<'a>,
    out: Vec<u8>,
    /// Where the fields of the messages that are open stand in the output, message by message.
    ranges: Vec<(usize, usize)>,
}

impl Transcoder<'_> {
    fn document(&mut self, message: &'static Message) -> Result<(), Failure> {
        self.message(message, DEPTH_LIMIT)?;
        match self.reader.peek() {
            None => Ok(()),
            Some(_) => Err(self.reader.expected("the end of the body")),
        }
    }

    /// Reads an object that may nest `depth` levels, itself included.
    fn message(&mut self, message: &'static Message, depth: usize) -> Result<(), Failure> {
        self.reader.require(b'{', "an object")?;
        let Some(depth) = depth.checked_sub(1) else {
            return Err(too_deep(self.reader.offset() - 1));
        };
        if self.reader.take(b'}') {
            return Ok(());
        }
        let mut written = Written::begin(message, &mut self.ranges);
        let mut next = 0;
        loop {
            match self.field_index(message, next)? {
                Some(index) => {
                    next = index + 1;
                    let field = &message.fields[index];
                    let start = self.out.len();
                    let present = self.field(field, depth).map_err(|failure| failure.in_field(field.camel))?;
                    written.replace(index, start, present, &mut self.out, &mut self.ranges);
                }
                None => self.reader.skip(depth)?,
            }
            if !self.reader.another(b'}', "`,` or `}`")? {
                self.ranges.truncate(written.first);
                return Ok(());
            }
        }
    }

    /// Takes a field's name and colon. None where the message has no such field.
    fn field_index(&mut self, message: &'static Message, first: usize) -> Result<Option<usize>, Failure> {
        if self.reader.peek() != Some(b'"') {
            return Err(self.reader.expected("a field name"));
        }
        // Nearly all senders write the names in this form and order.
        let reader = &mut self.reader;
        let is_next = |field: &Field| reader.take_string(field.camel);
        let mut found = message.fields[first..].iter().position(is_next).map(|at| at + first);
        if found.is_none() {
            let name = self.reader.string()?;
            let name: &[u8] = &name;
            let is_named = |field: &Field| field.camel.as_bytes() == name || field.snake.as_bytes() == name;
            found = message.fields.iter().position(is_named);
        }
        self.reader.require(b':', "`:`")?;
        Ok(found)
    }

    /// Reads a field's value and writes the field. False where the value is null.
    fn field(&mut self, field: &Field, depth: usize) -> Result<bool, Failure> {
        if self.reader.take_null()? {
            return Ok(false);
        }
        if !field.is_repeated {
            return self.value(field, depth).map(|()| true);
        }
        let Some(depth) = depth.checked_sub(1) else {
            return Err(too_deep(self.reader.offset()));
        };
        self.reader.require(b'[', "an array")?;
        if self.reader.take(b']') {
            return Ok(true);
        }
        for index in 0.. {
            self.element(field, depth).map_err(|failure| failure.at_index(index))?;
            if !self.reader.another(b']', "`,` or `]`").map_err(|failure| failure.at_index(index))? {
                break;
            }
        }
        Ok(true)
    }

    /// Reads an element of a list. Lists hold messages and texts only, so all elements have a length.
    fn element(&mut self, field: &Field, depth: usize) -> Result<(), Failure> {
        if self.reader.take_null()? {
            self.tag(field, WIRE_LENGTH);
            self.out.push(0);
            return Ok(());
        }
        if let Kind::Text = field.kind {
            return self.text(field);
        }
        self.value(field, depth)
    }

    fn value(&mut self, field: &Field, depth: usize) -> Result<(), Failure> {
        let start = self.reader.offset();
        let failed = |what: &'static str| Failure::new(what, start);
        match field.kind {
            Kind::Message(message) => {
                let length_at = self.open(field);
                self.message(message, depth)?;
                self.close(length_at);
            }
            Kind::Text => self.text(field)?,
            Kind::Id(expected_bytes) => self.id(field, expected_bytes)?,
            Kind::Bytes => self.bytes(field)?,
            Kind::Bool => {
                let set = self.reader.boolean()?;
                self.tag(field, WIRE_VARINT);
                self.out.push(u8::from(set));
            }
            Kind::Int32
            | Kind::Int64
            | Kind::Uint32
            | Kind::Uint64
            | Kind::Sint32
            | Kind::Fixed32
            | Kind::Fixed64
            | Kind::Sfixed64 => {
                let number = self.whole_number()?;
                self.integer(field, number).map_err(failed)?;
            }
            Kind::Enum(names) => self.enumeration(field, names)?,
            Kind::Double => {
                let double = match self.reader.peek() {
                    Some(b'"') => value::double_in_string(&self.reader.string()?),
                    _ => value::double(self.reader.number()?),
                };
                let double = double.map_err(failed)?;
                self.tag(field, WIRE_FIXED64);
                self.out.extend_from_slice(&double.to_le_bytes());
            }
        }
        Ok(())
    }

    fn text(&mut self, field: &Field) -> Result<(), Failure> {
        let plain = self.reader.begin_string()?;
        if self.reader.take_quote() {
            self.tag(field, WIRE_LENGTH);
            self.varint(plain.len() as u64);
            self.out.extend_from_slice(plain);
            return Ok(());
        }
        let length_at = self.open(field);
        self.out.extend_from_slice(plain);
        self.reader.finish_string(&mut self.out)?;
        self.close(length_at);
        Ok(())
    }

    fn id(&mut self, field: &Field, expected_bytes: usize) -> Result<(), Failure> {
        let start = self.reader.offset();
        let text = self.reader.string()?;
        let length_at = self.open(field);
        value::hex(&text, expected_bytes, &mut self.out)
            .map_err(|at| Failure::new(format!("not hexadecimal at character {at}"), start))?;
        self.close(length_at);
        Ok(())
    }

    fn bytes(&mut self, field: &Field) -> Result<(), Failure> {
        let start = self.reader.offset();
        let text = self.reader.string()?;
        let length_at = self.open(field);
        value::base64(&text, &mut self.out)
            .map_err(|at| Failure::new(format!("not base64 at character {at}"), start))?;
        self.close(length_at);
        Ok(())
    }

    fn whole_number(&mut self) -> Result<i128, Failure> {
        let start = self.reader.offset();
        let number = match self.reader.peek() {
            Some(b'"') => {
                let text = self.reader.string()?;
                value::number_in_string(&text).and_then(value::whole_number)
            }
            _ => value::whole_number(self.reader.number()?),
        };
        number.map_err(|what| Failure::new(what, start))
    }

    fn integer(&mut self, field: &Field, number: i128) -> Result<(), &'static str> {
        const OUT_OF_RANGE: &str = "out of range";
        match field.kind {
            Kind::Int32 | Kind::Enum(_) => {
                let number = i32::try_from(number).map_err(|_| OUT_OF_RANGE)?;
                self.tag(field, WIRE_VARINT);
                self.varint(i64::from(number) as u64);
            }
            Kind::Uint32 => {
                let number = u32::try_from(number).map_err(|_| OUT_OF_RANGE)?;
                self.tag(field, WIRE_VARINT);
                self.varint(u64::from(number));
            }
            Kind::Uint64 => {
                let number = u64::try_from(number).map_err(|_| OUT_OF_RANGE)?;
                self.tag(field, WIRE_VARINT);
                self.varint(number);
            }
            Kind::Sint32 => {
                let number = i32::try_from(number).map_err(|_| OUT_OF_RANGE)?;
                self.tag(field, WIRE_VARINT);
                self.varint(u64::from((number << 1 ^ number >> 31) as u32));
            }
            Kind::Sfixed64 => {
                let number = i64::try_from(number).map_err(|_| OUT_OF_RANGE)?;
                self.tag(field, WIRE_FIXED64);
                self.out.extend_from_slice(&number.to_le_bytes());
            }
            Kind::Fixed32 => {
                let number = u32::try_from(number).map_err(|_| OUT_OF_RANGE)?;
                self.tag(field, WIRE_FIXED32);
                self.out.extend_from_slice(&number.to_le_bytes());
            }
            Kind::Fixed64 => {
                let number = u64::try_from(number).map_err(|_| OUT_OF_RANGE)?;
                self.tag(field, WIRE_FIXED64);
                self.out.extend_from_slice(&number.to_le_bytes());
            }
            _ => {
                let number = i64::try_from(number).map_err(|_| OUT_OF_RANGE)?;
                self.tag(field, WIRE_VARINT);
                self.varint(number as u64);
            }
        }
        Ok(())
    }

    fn enumeration(&mut self, field: &Field, names: &EnumNames) -> Result<(), Failure> {
        let start = self.reader.offset();
        let number = match self.reader.peek() {
            Some(b'"') => {
                let text = self.reader.string()?;
                match value::enum_number(&text, names) {
                    Some(number) => Ok(i128::from(number)),
                    None => value::number_in_string(&text).and_then(value::whole_number).map_err(|_| "unknown name"),
                }
            }
            _ => value::whole_number(self.reader.number()?),
        };
        number.and_then(|number| self.integer(field, number)).map_err(|what| Failure::new(what, start))
    }

    fn tag(&mut self, field: &Field, wire_type: u32) {
        self.varint(u64::from(field.number << 3 | wire_type));
    }

    fn varint(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.out.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.out.push(number as u8);
    }

    /// Begins a field whose length is not known yet: one byte is kept for it, enough for most.
    fn open(&mut self, field: &Field) -> usize {
        self.tag(field, WIRE_LENGTH);
        self.out.push(0);
        self.out.len() - 1
    }

    /// Ends a field begun by `open`: writes its length, moving the content where that takes more than one byte.
    fn close(&mut self, length_at: usize) {
        let content_at = length_at + 1;
        let content_end = self.out.len();
        let length = content_end - content_at;
        if length < 0x80 {
            self.out[length_at] = length as u8;
            return;
        }
        self.varint(length as u64);
        let length_bytes = self.out.len() - content_end;
        let mut encoded = [0; 10];
        encoded[..length_bytes].copy_from_slice(&self.out[content_end..]);
        self.out.truncate(content_end);
        self.out.resize(content_end + length_bytes - 1, 0);
        self.out.copy_within(content_at..content_end, length_at + length_bytes);
        self.out[length_at..length_at + length_bytes].copy_from_slice(&encoded[..length_bytes]);
    }
}

/// Which fields of one message are in the output, so that a later duplicate can take an earlier one out. Leaving both
/// to the protobuf decoder would append lists and merge messages.
struct Written {
    present: u32,
    oneof: u32,
    /// Where the ranges of this message begin among those of all open messages.
    first: usize,
}

impl Written {
    fn begin(message: &Message, ranges: &mut Vec<(usize, usize)>) -> Self {
        let first = ranges.len();
        ranges.resize(first + message.fields.len(), (0, 0));
        Self { present: 0, oneof: message.oneof, first }
    }

    /// Notes that the field at `index` was just read and wrote everything from `start` on.
    fn replace(
        &mut self,
        index: usize,
        mut start: usize,
        present: bool,
        out: &mut Vec<u8>,
        ranges: &mut [(usize, usize)],
    ) {
        let bit = 1 << index;
        let replaced = if self.oneof & bit != 0 && present { self.oneof } else { bit };
        while self.present & replaced != 0 {
            let other = (self.present & replaced).trailing_zeros() as usize;
            start -= self.remove(other, out, &mut ranges[self.first..]);
        }
        if present {
            self.present |= 1 << index;
            ranges[self.first + index] = (start, out.len());
        }
    }

    fn remove(&mut self, index: usize, out: &mut Vec<u8>, ranges: &mut [(usize, usize)]) -> usize {
        let (from, to) = ranges[index];
        let removed = to - from;
        out.drain(from..to);
        self.present &= !(1 << index);
        for range in ranges {
            if range.0 >= to {
                *range = (range.0 - removed, range.1 - removed);
            }
        }
        removed
    }
}
