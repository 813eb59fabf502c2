//! The links of a span.

use super::{Walk, write_attribute};
use crate::room::ITEM_BYTES;
use crate::value::{Attribute, write_hex};
use crate::wire::{Reader, WireError};

impl<'a> Walk<'a, '_> {
    /// Writes the links.
    pub(super) fn links(&mut self, reader: &Reader<'a>) -> Result<(), WireError> {
        for &bytes in &self.fields.links {
            let mut reader = reader.inner(bytes, "Link");
            let links = &mut self.columns.links;
            let (mut trace_id, mut span_id, mut trace_state) = (&[][..], &[][..], &[][..]);
            let (mut dropped, mut flags) = (0, 0);
            while let Some((field, wire)) = reader.next()? {
                match field {
                    1 => trace_id = reader.bytes(wire)?,
                    2 => span_id = reader.bytes(wire)?,
                    3 => trace_state = reader.bytes(wire)?,
                    4 => {
                        self.room.take(ITEM_BYTES, &reader)?;
                        let attribute = Attribute::read(&reader, reader.bytes(wire)?)?;
                        let (map, symbols) = (&mut links.attributes, &mut self.symbols);
                        write_attribute(&mut self.writer, &reader, attribute, map, symbols)?;
                    }
                    5 => dropped = reader.integer(wire)? as u32,
                    6 => flags = reader.four(wire)?,
                    _ => {}
                }
            }
            let item = links.count;
            links.trace_id.set_with(item, |out| write_hex(out, trace_id));
            links.span_id.set_with(item, |out| write_hex(out, span_id));
            links.trace_state.set(item, trace_state);
            links.flags.set(item, i64::from(flags));
            links.attributes.close(item);
            self.writer.finish_types(&mut self.symbols);
            links.attribute_types.set(item, &self.symbols);
            self.symbols.clear();
            links.dropped.set(item, i64::from(dropped));
            links.count += 1;
        }
        Ok(())
    }
}
