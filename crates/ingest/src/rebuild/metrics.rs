//! Data points out of the rows of `metric_points`, each as a metric that has no other.

use arrow::array::{Array, AsArray, ListArray, PrimitiveArray};
use arrow::datatypes::{ArrowPrimitiveType, Float64Type, Int64Type};
use opentelemetry_proto::tonic::metrics::v1::exponential_histogram_data_point::Buckets;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::summary_data_point::ValueAtQuantile;
use opentelemetry_proto::tonic::metrics::v1::{
    Exemplar, ExponentialHistogram, ExponentialHistogramDataPoint, Gauge, Histogram, HistogramDataPoint, Metric,
    NumberDataPoint, Sum, Summary, SummaryDataPoint, exemplar, number_data_point,
};

use super::{Fallible, Items, Rows, number_of, unhex};

const TEMPORALITIES: &[&str] = &["unspecified", "delta", "cumulative"];

impl Rows<'_> {
    pub(super) fn metric_point(&self, row: usize) -> Fallible<Metric> {
        let kind = self.owned("kind", row)?;
        let data = match kind.as_str() {
            "gauge" => Data::Gauge(Gauge { data_points: vec![self.number_point(row)?] }),
            "sum" => Data::Sum(Sum {
                data_points: vec![self.number_point(row)?],
                aggregation_temporality: self.temporality(row)?,
                is_monotonic: self.column("monotonic")?.as_boolean_opt().is_some_and(|column| column.value(row)),
            }),
            "histogram" => Data::Histogram(Histogram {
                data_points: vec![self.histogram_point(row)?],
                aggregation_temporality: self.temporality(row)?,
            }),
            "exponential_histogram" => Data::ExponentialHistogram(ExponentialHistogram {
                data_points: vec![self.exponential_point(row)?],
                aggregation_temporality: self.temporality(row)?,
            }),
            "summary" => Data::Summary(Summary { data_points: vec![self.summary_point(row)?] }),
            other => return Err(format!("{other:?} is no kind of metric")),
        };
        Ok(Metric {
            name: self.owned("name", row)?,
            description: self.owned("description", row)?,
            unit: self.owned("unit", row)?,
            metadata: self.attributes("metadata", "metadata_types", row)?.unwrap_or_default(),
            data: Some(data),
        })
    }

    fn temporality(&self, row: usize) -> Fallible<i32> {
        number_of(&self.owned("temporality", row)?, TEMPORALITIES)
    }

    fn number(&self, name: &str, row: usize) -> Fallible<u64> {
        Ok(self.int(name, row)?.unwrap_or(0) as u64)
    }

    fn double(&self, name: &str, row: usize) -> Fallible<Option<f64>> {
        let column: Option<&PrimitiveArray<Float64Type>> = self.column(name)?.as_primitive_opt();
        let column = column.ok_or_else(|| format!("{name} is no double"))?;
        Ok(column.is_valid(row).then(|| column.value(row)))
    }

    /// The numbers of a list; none where it is NULL.
    fn numbers<T: ArrowPrimitiveType>(&self, name: &str, row: usize) -> Fallible<Vec<T::Native>> {
        let lists: &ListArray = self.column(name)?.as_list_opt().ok_or_else(|| format!("{name} is no list"))?;
        if lists.is_null(row) {
            return Ok(Vec::new());
        }
        let items = lists.value(row);
        let items: Option<&PrimitiveArray<T>> = items.as_primitive_opt();
        Ok(items.ok_or_else(|| format!("{name} holds other numbers"))?.values().to_vec())
    }

    fn counts(&self, name: &str, row: usize) -> Fallible<Vec<u64>> {
        Ok(self.numbers::<Int64Type>(name, row)?.into_iter().map(|count| count as u64).collect())
    }

    fn number_point(&self, row: usize) -> Fallible<NumberDataPoint> {
        let int = self.int("value_int", row)?.map(number_data_point::Value::AsInt);
        Ok(NumberDataPoint {
            attributes: self.attributes("attributes", "attribute_types", row)?.unwrap_or_default(),
            start_time_unix_nano: self.number("start_time_unix_nano", row)?,
            time_unix_nano: self.number("time_unix_nano", row)?,
            exemplars: self.exemplars(row)?,
            flags: self.count("flags", row)?,
            value: int.or(self.double("value_double", row)?.map(number_data_point::Value::AsDouble)),
        })
    }

    fn histogram_point(&self, row: usize) -> Fallible<HistogramDataPoint> {
        Ok(HistogramDataPoint {
            attributes: self.attributes("attributes", "attribute_types", row)?.unwrap_or_default(),
            start_time_unix_nano: self.number("start_time_unix_nano", row)?,
            time_unix_nano: self.number("time_unix_nano", row)?,
            count: self.number("count", row)?,
            sum: self.double("sum", row)?,
            bucket_counts: self.counts("bucket_counts", row)?,
            explicit_bounds: self.numbers::<Float64Type>("explicit_bounds", row)?,
            exemplars: self.exemplars(row)?,
            flags: self.count("flags", row)?,
            min: self.double("min", row)?,
            max: self.double("max", row)?,
        })
    }

    fn exponential_point(&self, row: usize) -> Fallible<ExponentialHistogramDataPoint> {
        Ok(ExponentialHistogramDataPoint {
            attributes: self.attributes("attributes", "attribute_types", row)?.unwrap_or_default(),
            start_time_unix_nano: self.number("start_time_unix_nano", row)?,
            time_unix_nano: self.number("time_unix_nano", row)?,
            count: self.number("count", row)?,
            sum: self.double("sum", row)?,
            scale: self.required("scale", row)? as i32,
            zero_count: self.number("zero_count", row)?,
            positive: self.buckets("positive_offset", "positive_bucket_counts", row)?,
            negative: self.buckets("negative_offset", "negative_bucket_counts", row)?,
            flags: self.count("flags", row)?,
            exemplars: self.exemplars(row)?,
            min: self.double("min", row)?,
            max: self.double("max", row)?,
            zero_threshold: self.double("zero_threshold", row)?.unwrap_or(0.0),
        })
    }

    fn buckets(&self, offset: &str, counts: &str, row: usize) -> Fallible<Option<Buckets>> {
        let Some(offset) = self.int(offset, row)? else { return Ok(None) };
        Ok(Some(Buckets { offset: offset as i32, bucket_counts: self.counts(counts, row)? }))
    }

    fn summary_point(&self, row: usize) -> Fallible<SummaryDataPoint> {
        let quantiles = self.items("quantiles", row)?;
        let items = Items { items: &quantiles };
        let quantile = |item| {
            Ok(ValueAtQuantile {
                quantile: items.double("quantile", item)?.unwrap_or(0.0),
                value: items.double("value", item)?.unwrap_or(0.0),
            })
        };
        Ok(SummaryDataPoint {
            attributes: self.attributes("attributes", "attribute_types", row)?.unwrap_or_default(),
            start_time_unix_nano: self.number("start_time_unix_nano", row)?,
            time_unix_nano: self.number("time_unix_nano", row)?,
            count: self.number("count", row)?,
            sum: self.double("sum", row)?.unwrap_or(0.0),
            quantile_values: (0..quantiles.len()).map(quantile).collect::<Fallible<_>>()?,
            flags: self.count("flags", row)?,
        })
    }

    fn exemplars(&self, row: usize) -> Fallible<Vec<Exemplar>> {
        let exemplars = self.items("exemplars", row)?;
        let items = Items { items: &exemplars };
        let exemplar = |item| {
            let int = items.optional("value_int", item)?.map(exemplar::Value::AsInt);
            Ok(Exemplar {
                filtered_attributes: items.attributes(item)?,
                time_unix_nano: items.optional("time_unix_nano", item)?.unwrap_or(0) as u64,
                span_id: unhex(&items.text("span_id", item)?)?,
                trace_id: unhex(&items.text("trace_id", item)?)?,
                value: int.or(items.double("value_double", item)?.map(exemplar::Value::AsDouble)),
            })
        };
        (0..exemplars.len()).map(exemplar).collect()
    }
}

impl Items<'_> {
    fn optional(&self, name: &str, item: usize) -> Fallible<Option<i64>> {
        let column: Option<&PrimitiveArray<Int64Type>> = self.field(name)?.as_primitive_opt();
        let column = column.ok_or_else(|| format!("{name} is no Int64"))?;
        Ok(column.is_valid(item).then(|| column.value(item)))
    }

    fn double(&self, name: &str, item: usize) -> Fallible<Option<f64>> {
        let column: Option<&PrimitiveArray<Float64Type>> = self.field(name)?.as_primitive_opt();
        let column = column.ok_or_else(|| format!("{name} is no double"))?;
        Ok(column.is_valid(item).then(|| column.value(item)))
    }
}
