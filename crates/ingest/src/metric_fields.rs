//! The fields of a metric and of its data points, as the wire has them.
//! <https://github.com/open-telemetry/opentelemetry-proto/blob/main/opentelemetry/proto/metrics/v1/metrics.proto>

use crate::room::{ITEM_BYTES, Room};
use crate::value::Attribute;
use crate::wire::{Reader, Wire, WireError};

/// What a metric's points are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Gauge,
    Sum,
    Histogram,
    ExponentialHistogram,
    Summary,
}

impl Kind {
    fn of_field(field: u32) -> Option<Self> {
        Some(match field {
            5 => Self::Gauge,
            7 => Self::Sum,
            9 => Self::Histogram,
            10 => Self::ExponentialHistogram,
            11 => Self::Summary,
            _ => return None,
        })
    }

    /// As the column `kind` has it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Gauge => "gauge",
            Self::Sum => "sum",
            Self::Histogram => "histogram",
            Self::ExponentialHistogram => "exponential_histogram",
            Self::Summary => "summary",
        }
    }

    /// Whether its points are totals since a start.
    pub(crate) fn has_temporality(self) -> bool {
        !matches!(self, Self::Gauge | Self::Summary)
    }
}

/// A `Metric` message without its points.
#[derive(Debug, Default)]
pub(crate) struct MetricFields<'a> {
    pub(crate) name: &'a [u8],
    pub(crate) description: &'a [u8],
    pub(crate) unit: &'a [u8],
    pub(crate) metadata: Vec<Attribute<'a>>,
    /// `None` where the metric has no data of a kind that is known.
    pub(crate) kind: Option<Kind>,
    pub(crate) temporality: i32,
    pub(crate) monotonic: bool,
    /// The messages that hold the points: one, unless a sender split it.
    pub(crate) data: Vec<&'a [u8]>,
    /// Whether there is data of another kind.
    pub(crate) has_unknown_data: bool,
}

impl<'a> MetricFields<'a> {
    /// Reads a `Metric` message. Of several members of its oneof the last counts; the same one again is merged.
    pub(crate) fn read(reader: &mut Reader<'a>, room: &mut Room) -> Result<Self, WireError> {
        let mut metric = Self::default();
        while let Some((field, wire)) = reader.next()? {
            match (field, wire) {
                (1, _) => metric.name = reader.bytes(wire)?,
                (2, _) => metric.description = reader.bytes(wire)?,
                (3, _) => metric.unit = reader.bytes(wire)?,
                (12, _) => {
                    room.take(ITEM_BYTES, reader)?;
                    metric.metadata.push(Attribute::read(reader, reader.bytes(wire)?)?);
                }
                (field, wire) => match (Kind::of_field(field), wire) {
                    (Some(kind), wire) => {
                        room.take(ITEM_BYTES, reader)?;
                        metric.data(kind, reader.inner(reader.bytes(wire)?, "Metric.data"))?;
                    }
                    (None, Wire::Bytes(_)) => metric.has_unknown_data = true,
                    (None, _) => {}
                },
            }
        }
        Ok(metric)
    }

    fn data(&mut self, kind: Kind, mut data: Reader<'a>) -> Result<(), WireError> {
        if self.kind != Some(kind) {
            self.kind = Some(kind);
            self.data.clear();
            (self.temporality, self.monotonic) = (0, false);
        }
        self.data.push(data.rest());
        while let Some((field, wire)) = data.next()? {
            match field {
                2 if kind.has_temporality() => self.temporality = data.integer(wire)? as i32,
                3 if kind == Kind::Sum => self.monotonic = data.integer(wire)? != 0,
                _ => {}
            }
        }
        Ok(())
    }
}

/// A number that was measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Number {
    Int(i64),
    Double(f64),
}

/// Buckets of an exponential histogram.
#[derive(Debug, Default)]
pub(crate) struct Buckets {
    /// Whether the message was sent.
    pub(crate) is_sent: bool,
    pub(crate) offset: i32,
    pub(crate) counts: Vec<u64>,
}

impl Buckets {
    fn clear(&mut self) {
        self.counts.clear();
        *self = Self { counts: std::mem::take(&mut self.counts), ..Self::default() };
    }

    fn read(&mut self, mut reader: Reader<'_>, room: &mut Room) -> Result<(), WireError> {
        self.is_sent = true;
        while let Some((field, wire)) = reader.next()? {
            match field {
                1 => self.offset = zigzag(reader.integer(wire)?),
                2 => read_counts(&reader, wire, &mut self.counts, room)?,
                _ => {}
            }
        }
        Ok(())
    }
}

/// A data point of any kind.
#[derive(Debug, Default)]
pub(crate) struct PointFields<'a> {
    pub(crate) attributes: Vec<Attribute<'a>>,
    pub(crate) exemplars: Vec<&'a [u8]>,
    pub(crate) start: u64,
    pub(crate) time: u64,
    pub(crate) flags: u32,
    pub(crate) value: Option<Number>,
    pub(crate) count: u64,
    pub(crate) sum: Option<f64>,
    pub(crate) min: Option<f64>,
    pub(crate) max: Option<f64>,
    pub(crate) bounds: Vec<f64>,
    pub(crate) counts: Vec<u64>,
    pub(crate) scale: i32,
    pub(crate) zero_count: u64,
    pub(crate) zero_threshold: f64,
    pub(crate) positive: Buckets,
    pub(crate) negative: Buckets,
    pub(crate) quantiles: Vec<(f64, f64)>,
}

impl<'a> PointFields<'a> {
    /// Empties the fields, keeping their memory.
    fn clear(&mut self) {
        self.attributes.clear();
        self.exemplars.clear();
        self.bounds.clear();
        self.counts.clear();
        self.quantiles.clear();
        self.positive.clear();
        self.negative.clear();
        (self.start, self.time, self.flags, self.value) = (0, 0, 0, None);
        (self.count, self.sum, self.min, self.max) = (0, None, None, None);
        (self.scale, self.zero_count, self.zero_threshold) = (0, 0, 0.0);
    }

    /// Reads a data point in the place of what was read before.
    pub(crate) fn read(&mut self, kind: Kind, reader: &mut Reader<'a>, room: &mut Room) -> Result<(), WireError> {
        self.clear();
        while let Some((field, wire)) = reader.next()? {
            match (kind, field) {
                // The start and the time have the same numbers in all kinds.
                (_, 2) => self.start = reader.eight(wire)?,
                (_, 3) => self.time = reader.eight(wire)?,
                (Kind::Gauge | Kind::Sum, _) => self.number(field, wire, reader, room)?,
                (Kind::Histogram, _) => self.histogram(field, wire, reader, room)?,
                (Kind::ExponentialHistogram, _) => self.exponential(field, wire, reader, room)?,
                (Kind::Summary, _) => self.summary(field, wire, reader, room)?,
            }
        }
        Ok(())
    }

    fn attribute(&mut self, wire: Wire<'a>, reader: &Reader<'a>, room: &mut Room) -> Result<(), WireError> {
        room.take(ITEM_BYTES, reader)?;
        self.attributes.push(Attribute::read(reader, reader.bytes(wire)?)?);
        Ok(())
    }

    fn exemplar(&mut self, wire: Wire<'a>, reader: &Reader<'a>, room: &mut Room) -> Result<(), WireError> {
        room.take(ITEM_BYTES, reader)?;
        self.exemplars.push(reader.bytes(wire)?);
        Ok(())
    }

    fn number(&mut self, field: u32, wire: Wire<'a>, reader: &Reader<'a>, room: &mut Room) -> Result<(), WireError> {
        match field {
            4 => self.value = Some(Number::Double(f64::from_bits(reader.eight(wire)?))),
            5 => self.exemplar(wire, reader, room)?,
            6 => self.value = Some(Number::Int(reader.eight(wire)? as i64)),
            7 => self.attribute(wire, reader, room)?,
            8 => self.flags = reader.integer(wire)? as u32,
            _ => {}
        }
        Ok(())
    }

    fn histogram(&mut self, field: u32, wire: Wire<'a>, reader: &Reader<'a>, room: &mut Room) -> Result<(), WireError> {
        match field {
            4 => self.count = reader.eight(wire)?,
            5 => self.sum = Some(f64::from_bits(reader.eight(wire)?)),
            6 => reader.eights(wire, |count| self.counts.push(count))?,
            7 => reader.eights(wire, |bound| self.bounds.push(f64::from_bits(bound)))?,
            8 => self.exemplar(wire, reader, room)?,
            9 => self.attribute(wire, reader, room)?,
            10 => self.flags = reader.integer(wire)? as u32,
            11 => self.min = Some(f64::from_bits(reader.eight(wire)?)),
            12 => self.max = Some(f64::from_bits(reader.eight(wire)?)),
            _ => {}
        }
        Ok(())
    }

    fn exponential(
        &mut self,
        field: u32,
        wire: Wire<'a>,
        reader: &Reader<'a>,
        room: &mut Room,
    ) -> Result<(), WireError> {
        match field {
            1 => self.attribute(wire, reader, room)?,
            4 => self.count = reader.eight(wire)?,
            5 => self.sum = Some(f64::from_bits(reader.eight(wire)?)),
            6 => self.scale = zigzag(reader.integer(wire)?),
            7 => self.zero_count = reader.eight(wire)?,
            8 => self.positive.read(reader.inner(reader.bytes(wire)?, "Buckets"), room)?,
            9 => self.negative.read(reader.inner(reader.bytes(wire)?, "Buckets"), room)?,
            10 => self.flags = reader.integer(wire)? as u32,
            11 => self.exemplar(wire, reader, room)?,
            12 => self.min = Some(f64::from_bits(reader.eight(wire)?)),
            13 => self.max = Some(f64::from_bits(reader.eight(wire)?)),
            14 => self.zero_threshold = f64::from_bits(reader.eight(wire)?),
            _ => {}
        }
        Ok(())
    }

    fn summary(&mut self, field: u32, wire: Wire<'a>, reader: &Reader<'a>, room: &mut Room) -> Result<(), WireError> {
        match field {
            4 => self.count = reader.eight(wire)?,
            5 => self.sum = Some(f64::from_bits(reader.eight(wire)?)),
            6 => {
                room.take(ITEM_BYTES, reader)?;
                self.quantiles.push(read_quantile(reader.inner(reader.bytes(wire)?, "ValueAtQuantile"))?);
            }
            7 => self.attribute(wire, reader, room)?,
            8 => self.flags = reader.integer(wire)? as u32,
            _ => {}
        }
        Ok(())
    }

    /// Whether buckets and count of a histogram fit each other. Without buckets there is nothing to fit.
    pub(crate) fn adds_up(&self, kind: Kind) -> bool {
        let total = |counts: &[u64]| counts.iter().fold(0u64, |sum, count| sum.saturating_add(*count));
        match kind {
            Kind::Histogram if self.counts.is_empty() && self.bounds.is_empty() => true,
            Kind::Histogram => {
                self.counts.len() == self.bounds.len() + 1
                    && self.bounds.windows(2).all(|pair| pair[0] < pair[1])
                    && total(&self.counts) == self.count
            }
            Kind::ExponentialHistogram => {
                let buckets = total(&self.positive.counts).saturating_add(total(&self.negative.counts));
                buckets.saturating_add(self.zero_count) == self.count
            }
            _ => true,
        }
    }
}

/// An `Exemplar` message.
#[derive(Debug, Default)]
pub(crate) struct ExemplarFields<'a> {
    pub(crate) attributes: Vec<Attribute<'a>>,
    pub(crate) time: u64,
    pub(crate) value: Option<Number>,
    pub(crate) span_id: &'a [u8],
    pub(crate) trace_id: &'a [u8],
}

impl<'a> ExemplarFields<'a> {
    pub(crate) fn read(reader: &mut Reader<'a>, room: &mut Room) -> Result<Self, WireError> {
        let mut exemplar = Self::default();
        while let Some((field, wire)) = reader.next()? {
            match field {
                2 => exemplar.time = reader.eight(wire)?,
                3 => exemplar.value = Some(Number::Double(f64::from_bits(reader.eight(wire)?))),
                4 => exemplar.span_id = reader.bytes(wire)?,
                5 => exemplar.trace_id = reader.bytes(wire)?,
                6 => exemplar.value = Some(Number::Int(reader.eight(wire)? as i64)),
                7 => {
                    room.take(ITEM_BYTES, reader)?;
                    exemplar.attributes.push(Attribute::read(reader, reader.bytes(wire)?)?);
                }
                _ => {}
            }
        }
        Ok(exemplar)
    }
}

fn read_quantile(mut reader: Reader<'_>) -> Result<(f64, f64), WireError> {
    let mut quantile = (0.0, 0.0);
    while let Some((field, wire)) = reader.next()? {
        match field {
            1 => quantile.0 = f64::from_bits(reader.eight(wire)?),
            2 => quantile.1 = f64::from_bits(reader.eight(wire)?),
            _ => {}
        }
    }
    Ok(quantile)
}

/// Counts as varints: one byte on the wire may become eight.
fn read_counts(reader: &Reader<'_>, wire: Wire<'_>, counts: &mut Vec<u64>, room: &mut Room) -> Result<(), WireError> {
    if let Wire::Bytes(bytes) = wire {
        room.take(bytes.len().saturating_mul(size_of::<u64>()), reader)?;
    }
    reader.integers(wire, |count| counts.push(count))
}

/// The number of a `sint32` field.
fn zigzag(number: u64) -> i32 {
    let number = number as u32;
    (number >> 1) as i32 ^ -((number & 1) as i32)
}
