//! What spans and their events say, on its way to the tables of messages and to the roles of calls.

use spanlake_schema::flags::reading as reading_flag;

use super::Walk;
use crate::content::{EventFields, Source, Speaker};
use crate::origin::Origin;
use crate::roles::Note;
use crate::wire::Reader;

impl<'a> Walk<'a, '_> {
    /// Remembers what the role of the current span depends on.
    pub(super) fn note(&mut self, origin: &Origin<'a>, note: Note) {
        let note = Note {
            start_unix_nano: self.fields.start,
            end_unix_nano: self.fields.end,
            scope: origin.scope_hash(),
            ..note
        };
        let places = &self.meaning.places;
        let models = [places.request_model, places.response_model].map(|place| self.facts.text(place).unwrap_or(&[]));
        self.roles.note((self.full.len(), self.columns.rows), self.fields.trace_id, models, note);
    }

    /// Makes rows of the content that was found among the attributes; notes in `held` which they hold.
    #[cold]
    pub(super) fn content(&mut self, reader: &Reader<'a>, service_name: Option<&[u8]>) {
        let attributes = &self.fields.attributes;
        let told = self.collector.messages(self.content.rules, reader, attributes, &mut self.held);
        if std::mem::take(&mut self.collector.broken_json) {
            self.facts.flag(reading_flag::JSON_BROKEN);
        }
        let speaker = self.speaker(Source::Attribute, self.fields.start, service_name);
        self.content.rows.add(&speaker, told);
    }

    fn speaker<'s>(&self, source: Source, unix_nano: u64, service_name: Option<&'s [u8]>) -> Speaker<'s>
    where
        'a: 's,
    {
        Speaker {
            source,
            date: self.columns.dates.last().copied().unwrap_or_default(),
            trace_id: self.fields.trace_id,
            span_id: self.fields.span_id,
            time_micros: (unix_nano / 1_000) as i64,
            service_name,
        }
    }

    /// Makes rows of what an event said; notes in `held` which attributes they hold.
    pub(super) fn event_content(
        &mut self,
        reader: &Reader<'a>,
        name: &'a [u8],
        time: u64,
        service_name: Option<&[u8]>,
    ) {
        let event = EventFields { name, attributes: &self.event_attributes, body: None };
        let heard = self.collector.event(self.content.rules, reader, event, &mut self.held);
        if !heard.told.is_empty() {
            let speaker = self.speaker(Source::Event, time, service_name);
            self.content.rows.add(&speaker, heard.told);
        }
    }
}
