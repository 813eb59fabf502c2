//! The events of a span.

use super::{Walk, write_attribute};
use crate::content::CONTENT;
use crate::reading::EventFields;
use crate::room::ITEM_BYTES;
use crate::value::{Attribute, Value};
use crate::wire::{Reader, WireError};

impl<'a> Walk<'a, '_> {
    /// Writes the events; returns the type of the last exception among them.
    pub(super) fn events(
        &mut self,
        reader: &Reader<'a>,
        service_name: Option<&[u8]>,
    ) -> Result<Option<&'a [u8]>, WireError> {
        let mut exception = None;
        for place in 0..self.fields.events.len() {
            let mut reader = reader.inner(self.fields.events[place], "Event");
            let (mut time, mut name, mut dropped, mut exception_type) = (0, &[][..], 0, None);
            self.event_attributes.clear();
            while let Some((field, wire)) = reader.next()? {
                match field {
                    1 => time = reader.eight(wire)?,
                    2 => name = reader.bytes(wire)?,
                    3 => {
                        self.room.take(ITEM_BYTES, &reader)?;
                        let attribute = Attribute::read(&reader, reader.bytes(wire)?)?;
                        if let (b"exception.type", Value::String(text)) = (attribute.key, attribute.value) {
                            exception_type = Some(text);
                        }
                        self.event_attributes.push(attribute);
                    }
                    4 => dropped = reader.integer(wire)? as u32,
                    _ => {}
                }
            }
            self.held.clear();
            self.held.resize(self.event_attributes.len(), 0);
            if self.reads {
                self.event_content(&reader, name, time, service_name);
            }
            let events = &mut self.columns.events;
            for (attribute, &held) in self.event_attributes.iter().zip(&self.held) {
                if held == CONTENT {
                    self.writer.content(&mut self.symbols);
                    continue;
                }
                let (map, symbols) = (&mut events.attributes, &mut self.symbols);
                write_attribute(&mut self.writer, &reader, *attribute, map, symbols)?;
            }
            let item = events.count;
            events.time.set(item, (time / 1_000) as i64);
            events.time_unix_nano.set(item, time as i64);
            events.name.set(item, name);
            events.attributes.close(item);
            self.writer.finish_types(&mut self.symbols);
            events.attribute_types.set(item, &self.symbols);
            self.symbols.clear();
            events.dropped.set(item, i64::from(dropped));
            events.count += 1;
            if name == b"exception" {
                exception = exception_type.or(exception);
            }
            if self.reads {
                let event = EventFields { name, time_unix_nano: time, attributes: &self.event_attributes };
                self.facts.read_event(self.meaning.rules(), event, self.fields.start);
            }
            self.event_attributes.clear();
        }
        Ok(exception)
    }
}
