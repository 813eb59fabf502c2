//! An `ExportMetricsServiceRequest`, walked from its bytes straight into columns: one row a data point.

use std::sync::{Arc, LazyLock};

use arrow::datatypes::SchemaRef;
use spanlake_schema::flags::{reading as reading_flag, time as time_flag};
use spanlake_schema::{TableSpec, metric_points};

use crate::dates::Dates;
use crate::metric_fields::{ExemplarFields, Kind, MetricFields, Number, PointFields};
use crate::origin::Origin;
use crate::resources::{self, Items, Names};
use crate::room::Room;
use crate::series::Series;
use crate::span_columns::{Columns, ROWS_MAX, Table, slot_in};
use crate::value::{ValueWriter, write_hex};
use crate::walk::{Walked, write_attribute};
use crate::wire::{Reader, WireError};

const NAMES: Names =
    Names { request: "ExportMetricsServiceRequest", resource: "ResourceMetrics", scope: "ScopeMetrics" };

/// A typical point's size, for sizing columns. Wrong guesses cost a reallocation.
const POINT_BYTES_GUESS: usize = 256;

/// The table `metric_points`.
#[derive(Debug)]
struct MetricPoints;

impl Table for MetricPoints {
    const SPEC: TableSpec = metric_points::SPEC;
    const IDS: &'static [(&'static str, usize)] = &[("series_id", 32)];

    fn schema() -> SchemaRef {
        static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| MetricPoints::SPEC.arrow_schema());
        Arc::clone(&SCHEMA)
    }
}

/// A column's place among the columns of its type.
const fn slot(name: &str) -> usize {
    slot_in(metric_points::SPEC.columns, name)
}

/// Walks a request. The same bytes and arrival give the same rows. No point is refused: one without a time has that of
/// its arrival, one whose buckets do not add up says so. A metric without data has no rows.
pub(crate) fn walk(body: &[u8], received_unix_nano: u64, room: Room) -> Result<Walked, WireError> {
    let rows = (body.len() / POINT_BYTES_GUESS + 1).min(ROWS_MAX);
    let mut walk = MetricWalk {
        received_unix_nano,
        room,
        columns: Columns::new(rows),
        series: Series::default(),
        fields: PointFields::default(),
        symbols: Vec::new(),
        writer: ValueWriter::default(),
        dates: Dates::new(received_unix_nano),
        walked: Walked::default(),
    };
    resources::walk(body, NAMES, &mut walk)?;
    walk.cut_batch();
    walk.walked.repaired_strings += walk.writer.repaired;
    Ok(walk.walked)
}

struct MetricWalk<'a> {
    received_unix_nano: u64,
    room: Room,
    columns: Columns<MetricPoints>,
    series: Series,
    fields: PointFields<'a>,
    symbols: Vec<u8>,
    writer: ValueWriter,
    dates: Dates,
    walked: Walked,
}

impl<'a> Items<'a> for MetricWalk<'a> {
    fn writer(&mut self) -> (&mut ValueWriter, &mut Room) {
        (&mut self.writer, &mut self.room)
    }

    fn scope(&mut self, origin: &Origin<'a>) {
        self.series.begin_scope(origin);
    }

    fn item(&mut self, origin: &Origin<'a>, parent: &Reader<'a>, bytes: &'a [u8]) -> Result<(), WireError> {
        let mut reader = parent.inner(bytes, "Metric");
        let metric = MetricFields::read(&mut reader, &mut self.room)?;
        let Some(kind) = metric.kind else {
            if metric.has_unknown_data && self.walked.refusal.is_empty() {
                let name = String::from_utf8_lossy(&metric.name[..metric.name.len().min(200)]);
                self.walked.refusal =
                    format!("metric {name:?} has data of a kind that is not known and was not stored");
            }
            return Ok(());
        };
        self.series.begin_metric(kind, &metric);
        for &data in &metric.data {
            let mut data = reader.inner(data, kind.name());
            while let Some((field, wire)) = data.next()? {
                if field == 1 {
                    let bytes = data.bytes(wire)?;
                    self.point(origin, &metric, kind, data.inner(bytes, "DataPoint"))?;
                }
            }
        }
        Ok(())
    }

    fn end_resource(&mut self, origin: &Origin<'a>) {
        let (stored, refused) = (self.walked.stored + self.columns.rows as u64, self.walked.refused);
        self.walked.tally.up_to(origin.service_name(), stored, refused);
    }
}

impl<'a> MetricWalk<'a> {
    fn cut_batch(&mut self) {
        if self.columns.rows == 0 {
            return;
        }
        let columns = std::mem::replace(&mut self.columns, Columns::new(0));
        let (batch, repaired) = columns.finish();
        self.walked.stored += batch.num_rows() as u64;
        self.walked.repaired_strings += repaired;
        self.walked.batches.push((metric_points::SPEC.name, batch));
    }

    fn point(
        &mut self,
        origin: &Origin<'a>,
        metric: &MetricFields<'a>,
        kind: Kind,
        mut reader: Reader<'a>,
    ) -> Result<(), WireError> {
        let bytes = reader.rest().len();
        self.fields.read(kind, &mut reader, &mut self.room)?;
        let copied = origin.copy_bytes() + metric.copy_bytes();
        if self.room.take_row(self.columns.rows, copied, bytes, &reader)? {
            self.cut_batch();
        }
        self.writer.cut = false;
        let repaired = self.writer.repaired;
        self.times(kind);
        self.metric(metric, kind, &reader)?;
        origin.write(&mut self.columns);
        self.values(kind);
        self.exemplars(&reader)?;
        self.attributes(&reader)?;
        let mut flags = 0;
        if self.writer.cut {
            flags |= reading_flag::NESTING_CUT;
        }
        if self.writer.repaired > repaired {
            flags |= reading_flag::UTF8_REPAIRED;
        }
        if !self.fields.adds_up(kind) {
            flags |= reading_flag::BUCKETS_INCONSISTENT;
        }
        self.set_int(const { slot("reading_flags") }, flags);
        self.columns.end_row();
        Ok(())
    }

    fn set_int(&mut self, at: usize, number: i64) {
        let row = self.columns.rows;
        self.columns.ints[at].set(row, number);
    }

    fn set_float(&mut self, at: usize, number: Option<f64>) {
        if let Some(number) = number {
            let row = self.columns.rows;
            self.columns.floats[at].set(row, number);
        }
    }

    fn times(&mut self, kind: Kind) {
        let (start, sent) = (self.fields.start, self.fields.time);
        let mut flags = 0;
        if start == 0 && kind.has_temporality() {
            flags |= time_flag::NO_START;
        }
        let time = if sent == 0 {
            flags |= time_flag::TIME_FROM_ARRIVAL;
            self.received_unix_nano
        } else {
            if sent < start {
                flags |= time_flag::END_BEFORE_START;
            }
            sent
        };
        let date = self.dates.of(time).unwrap_or_else(|| {
            flags |= time_flag::DATE_FROM_ARRIVAL;
            self.dates.arrival()
        });
        let row = self.columns.rows;
        self.columns.dates.push(date);
        self.columns.times[const { slot("time") }].set(row, (time / 1_000) as i64);
        self.columns.times[const { slot("received_time") }].set(row, (self.received_unix_nano / 1_000) as i64);
        self.set_int(const { slot("time_flags") }, flags);
        if sent != 0 {
            self.set_int(const { slot("time_unix_nano") }, sent as i64);
        }
        if start != 0 {
            self.columns.times[const { slot("start_time") }].set(row, (start / 1_000) as i64);
            self.set_int(const { slot("start_time_unix_nano") }, start as i64);
        }
    }

    fn metric(&mut self, metric: &MetricFields<'a>, kind: Kind, reader: &Reader<'a>) -> Result<(), WireError> {
        let row = self.columns.rows;
        let texts = &mut self.columns.texts;
        texts[const { slot("name") }].set(row, metric.name);
        if !metric.description.is_empty() {
            texts[const { slot("description") }].set(row, metric.description);
        }
        if !metric.unit.is_empty() {
            texts[const { slot("unit") }].set(row, metric.unit);
        }
        texts[const { slot("kind") }].set(row, kind.name().as_bytes());
        if kind.has_temporality() {
            texts[const { slot("temporality") }].set(row, temporality_name(metric.temporality).as_bytes());
        }
        if kind == Kind::Sum {
            self.columns.bools[const { slot("monotonic") }].set(row, metric.monotonic);
        }
        if metric.metadata.is_empty() {
            return Ok(());
        }
        let map = &mut self.columns.maps[const { slot("metadata") }];
        for attribute in &metric.metadata {
            write_attribute(&mut self.writer, reader, *attribute, map, &mut self.symbols)?;
        }
        map.close(row);
        self.end_symbols(const { slot("metadata_types") });
        Ok(())
    }

    /// Ends the types of the attributes just written.
    fn end_symbols(&mut self, at: usize) {
        let row = self.columns.rows;
        self.writer.finish_types(&mut self.symbols);
        self.columns.texts[at].set(row, &self.symbols);
        self.symbols.clear();
    }

    fn values(&mut self, kind: Kind) {
        self.set_int(const { slot("flags") }, i64::from(self.fields.flags));
        match self.fields.value {
            Some(Number::Int(number)) => self.set_int(const { slot("value_int") }, number),
            Some(Number::Double(number)) => self.set_float(const { slot("value_double") }, Some(number)),
            None => {}
        }
        if matches!(kind, Kind::Gauge | Kind::Sum) {
            return;
        }
        self.set_int(const { slot("count") }, self.fields.count as i64);
        // A summary without a sum on the wire has the sum 0: the field has no presence there.
        let sum = if kind == Kind::Summary { Some(self.fields.sum.unwrap_or(0.0)) } else { self.fields.sum };
        self.set_float(const { slot("sum") }, sum);
        self.set_float(const { slot("min") }, self.fields.min);
        self.set_float(const { slot("max") }, self.fields.max);
        match kind {
            Kind::Histogram => self.explicit_buckets(),
            Kind::ExponentialHistogram => self.exponential_buckets(),
            _ => {
                if let Some(quantiles) = &mut self.columns.quantiles {
                    self.fields.quantiles.iter().for_each(|(quantile, value)| quantiles.push(*quantile, *value));
                }
            }
        }
    }

    fn explicit_buckets(&mut self) {
        let row = self.columns.rows;
        self.columns.float_lists[const { slot("explicit_bounds") }].set(row, self.fields.bounds.iter().copied());
        let counts = self.fields.counts.iter().map(|count| *count as i64);
        self.columns.int_lists[const { slot("bucket_counts") }].set(row, counts);
    }

    fn exponential_buckets(&mut self) {
        let row = self.columns.rows;
        self.set_int(const { slot("scale") }, i64::from(self.fields.scale));
        self.set_int(const { slot("zero_count") }, self.fields.zero_count as i64);
        self.set_float(const { slot("zero_threshold") }, Some(self.fields.zero_threshold));
        let sides = [
            (&self.fields.positive, const { slot("positive_offset") }, const { slot("positive_bucket_counts") }),
            (&self.fields.negative, const { slot("negative_offset") }, const { slot("negative_bucket_counts") }),
        ];
        for (buckets, offset, counts) in sides {
            if buckets.is_sent {
                self.columns.ints[offset].set(row, i64::from(buckets.offset));
                self.columns.int_lists[counts].set(row, buckets.counts.iter().map(|count| *count as i64));
            }
        }
    }

    fn exemplars(&mut self, reader: &Reader<'a>) -> Result<(), WireError> {
        let Some(columns) = &mut self.columns.exemplars else { return Ok(()) };
        for &bytes in &self.fields.exemplars {
            let mut reader = reader.inner(bytes, "Exemplar");
            let exemplar = ExemplarFields::read(&mut reader, &mut self.room)?;
            let item = columns.count;
            if exemplar.time != 0 {
                columns.time.set(item, (exemplar.time / 1_000) as i64);
                columns.time_unix_nano.set(item, exemplar.time as i64);
            }
            match exemplar.value {
                Some(Number::Int(number)) => columns.value_int.set(item, number),
                Some(Number::Double(number)) => columns.value_double.set(item, number),
                None => {}
            }
            for (column, id) in [(&mut columns.trace_id, exemplar.trace_id), (&mut columns.span_id, exemplar.span_id)] {
                if !id.is_empty() {
                    column.set_with(item, |out| write_hex(out, id));
                }
            }
            for attribute in &exemplar.attributes {
                write_attribute(&mut self.writer, &reader, *attribute, &mut columns.attributes, &mut self.symbols)?;
            }
            columns.attributes.close(item);
            self.writer.finish_types(&mut self.symbols);
            columns.attribute_types.set(item, &self.symbols);
            self.symbols.clear();
            columns.count += 1;
        }
        Ok(())
    }

    fn attributes(&mut self, reader: &Reader<'a>) -> Result<(), WireError> {
        let row = self.columns.rows;
        let map = &mut self.columns.maps[const { slot("attributes") }];
        let first = map.len();
        for attribute in &self.fields.attributes {
            write_attribute(&mut self.writer, reader, *attribute, map, &mut self.symbols)?;
        }
        map.close(row);
        let id = self.series.id(map.entries_from(first));
        self.columns.texts[const { slot("series_id") }].set_with(row, |out| write_hex(out, &id.to_be_bytes()));
        self.end_symbols(const { slot("attribute_types") });
        Ok(())
    }
}

impl MetricFields<'_> {
    /// What each row takes of its metric.
    fn copy_bytes(&self) -> usize {
        let values: usize = self.metadata.iter().map(|attribute| attribute.copy_bytes()).sum();
        self.name.len() + self.description.len() + self.unit.len() + values
    }
}

/// The name of an OTLP `AggregationTemporality`, or its number where the enum has none.
fn temporality_name(temporality: i32) -> std::borrow::Cow<'static, str> {
    match temporality {
        0 => "unspecified".into(),
        1 => "delta".into(),
        2 => "cumulative".into(),
        other => other.to_string().into(),
    }
}
