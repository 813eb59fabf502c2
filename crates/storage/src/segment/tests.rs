//! Whatever a table can hold comes back from its segments, and lies within their statistics.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float64Array, Int64Array, ListArray, MapArray,
    StringArray, StructArray, TimestampMicrosecondArray, new_null_array,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Decimal128Type, Float64Type, Int64Type, TimestampMicrosecondType};
use futures::TryStreamExt;
use object_store::memory::InMemory;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use proptest::prelude::*;
use serde_json::Value;
use spanlake_schema::{Column, ColumnType, TABLES};
use spanlake_testkit::{S3Server, SplitMix64};

use super::*;
use crate::{Commit, CommitOutcome, Store};

/// A table with every type there is, each with NULL where it can be.
const EVERYTHING: TableSpec = TableSpec {
    name: "everything",
    comment: "A table of these tests",
    columns: &[
        Column::required("date", ColumnType::Date, "day"),
        Column::required("id", ColumnType::Text, "text"),
        Column::optional("text", ColumnType::Text, "text"),
        Column::required("start", ColumnType::Timestamp, "time"),
        Column::optional("end", ColumnType::Timestamp, "time"),
        Column::optional("day", ColumnType::Date, "another day"),
        Column::optional("count", ColumnType::Int64, "number"),
        Column::optional("ratio", ColumnType::Float64, "number"),
        Column::optional("flag", ColumnType::Bool, "flag"),
        Column::optional("list", ColumnType::TextList, "texts"),
        Column::optional("map", ColumnType::TextMap, "texts"),
        Column::optional("cost_usd", ColumnType::Usd, "money"),
        Column::optional("sum_usd", ColumnType::UsdSum, "money"),
        Column::required("events", ColumnType::Events, "structs"),
        Column::optional("links", ColumnType::Links, "structs"),
    ],
    statistics: &["id", "text", "start", "end", "day", "count", "ratio", "cost_usd", "sum_usd"],
    bloom_filters: &["id"],
    sums: &[],
    attributes: &[],
};

/// Texts whose bounds are hard to tell: long, at the end of the code points, before the gap in them, in many bytes.
fn any_text(random: &mut SplitMix64) -> String {
    let alphabet = ['a', 'b', 'z', '\u{0}', 'ö', '\u{D7FF}', '\u{E000}', '\u{10FFFF}', '🦀'];
    let length = *random.pick(&[0, 1, 5, 31, 32, 33, 40]);
    let one = *random.pick(&alphabet);
    (0..length).map(|_| if random.chance(500) { one } else { *random.pick(&alphabet) }).collect()
}

fn any_int(random: &mut SplitMix64) -> i64 {
    match random.below(6) {
        0 => *random.pick(&[i64::MIN, i64::MAX, 0, -1]),
        1 => random.next_u64() as i64,
        2 => 1_768_478_400_000_000 + random.below(10_000_000) as i64,
        _ => random.below(2_000) as i64 - 1_000,
    }
}

fn any_decimal(random: &mut SplitMix64, precision: u8) -> i128 {
    let limit = 10_i128.pow(u32::from(precision)) - 1;
    match random.below(4) {
        0 => *random.pick(&[limit, -limit, 0, 1, -1]),
        1 => random.below(1_000_000_000_000) as i128,
        _ => {
            let wide = (i128::from(random.next_u64() as i64) << 63) ^ i128::from(random.next_u64());
            wide % (limit / 10_i128.pow(random.below(u64::from(precision)) as u32)).max(1)
        }
    }
}

fn any_float(random: &mut SplitMix64, special: bool) -> f64 {
    if special && random.chance(300) {
        return *random.pick(&[f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 0.0, -0.0, f64::MIN_POSITIVE]);
    }
    (random.below(1_000_000) as f64 / 7.0 - 50_000.0) * 10_f64.powi(random.below(60) as i32 - 30)
}

/// Values of a type; `null_per_mille` of them NULL.
fn any_array(data_type: &DataType, rows: usize, null_per_mille: u64, random: &mut SplitMix64) -> ArrayRef {
    if null_per_mille == 1_000 {
        return new_null_array(data_type, rows);
    }
    let special = random.chance(500);
    let valid: Vec<bool> = (0..rows).map(|_| !random.chance(null_per_mille)).collect();
    macro_rules! values {
        ($array:ty, $value:expr) => {
            valid.iter().map(|valid| valid.then(|| $value)).collect::<$array>()
        };
    }
    match data_type {
        DataType::Utf8 => Arc::new(values!(StringArray, any_text(random))),
        DataType::Binary => Arc::new(values!(BinaryArray, any_text(random).into_bytes())),
        DataType::Int64 => Arc::new(values!(Int64Array, any_int(random))),
        DataType::Timestamp(_, _) => Arc::new(values!(TimestampMicrosecondArray, any_int(random)).with_timezone("UTC")),
        DataType::Date32 => Arc::new(values!(Date32Array, random.below(60_000) as i32 - 30_000)),
        DataType::Float64 => Arc::new(values!(Float64Array, any_float(random, special))),
        DataType::Boolean => Arc::new(values!(BooleanArray, random.chance(500))),
        DataType::Decimal128(precision, scale) => Arc::new(
            values!(Decimal128Array, any_decimal(random, *precision))
                .with_precision_and_scale(*precision, *scale)
                .unwrap(),
        ),
        DataType::List(_) | DataType::Map(_, _) => nested_array(data_type, valid, null_per_mille > 0, random),
        other => panic!("no values of type {other}"),
    }
}

/// Lists and maps of no, one or several entries.
fn nested_array(data_type: &DataType, valid: Vec<bool>, nullable: bool, random: &mut SplitMix64) -> ArrayRef {
    let lengths: Vec<usize> = valid.iter().map(|valid| if *valid { random.index(4) } else { 0 }).collect();
    let offsets = OffsetBuffer::<i32>::from_lengths(lengths.iter().copied());
    let entries: usize = lengths.iter().sum();
    let nulls = nullable.then(|| NullBuffer::from(valid));
    let mut fields_of = |fields: &arrow::datatypes::Fields| {
        let columns = fields
            .iter()
            .map(|field| any_array(field.data_type(), entries, if field.is_nullable() { 200 } else { 0 }, random))
            .collect();
        if entries == 0 {
            return StructArray::new_null(fields.clone(), 0);
        }
        StructArray::new(fields.clone(), columns, None)
    };
    match data_type {
        DataType::Map(field, _) => {
            let DataType::Struct(fields) = field.data_type() else { panic!("a map of {field}") };
            let entries = fields_of(fields);
            Arc::new(MapArray::new(Arc::clone(field), offsets, entries, nulls, false))
        }
        DataType::List(field) => {
            let items: ArrayRef = match field.data_type() {
                DataType::Struct(fields) => {
                    let (fields, columns, _) = fields_of(fields).into_parts();
                    let some_null = (0..entries).map(|_| nullable && random.chance(200)).map(|null| !null);
                    let nulls = NullBuffer::from(some_null.collect::<Vec<_>>());
                    match entries {
                        0 => Arc::new(StructArray::new_null(fields, 0)),
                        _ => Arc::new(StructArray::new(fields, columns, Some(nulls))),
                    }
                }
                item => any_array(item, entries, 200, random),
            };
            Arc::new(ListArray::new(Arc::clone(field), offsets, items, nulls))
        }
        other => panic!("{other} is not nested"),
    }
}

/// A batch of one day.
fn any_batch(spec: &TableSpec, rows: usize, day: i32, random: &mut SplitMix64) -> RecordBatch {
    let columns = spec.columns.iter().map(|column| {
        let null_per_mille = if column.nullable { *random.pick(&[0, 100, 900, 1_000]) } else { 0 };
        if column.name == DATE {
            return Arc::new(Date32Array::from(vec![day; rows])) as ArrayRef;
        }
        any_array(&column.column_type.arrow_type(), rows, null_per_mille, random)
    });
    let columns = columns.collect();
    RecordBatch::try_new(spec.arrow_schema(), columns).unwrap()
}

fn read_back(bytes: Bytes) -> (ParquetRecordBatchReaderBuilder<Bytes>, Vec<RecordBatch>) {
    let builder = ParquetRecordBatchReaderBuilder::try_new(bytes.clone()).unwrap();
    let batches = ParquetRecordBatchReaderBuilder::try_new(bytes).unwrap().build().unwrap();
    (builder, batches.map(Result::unwrap).collect())
}

fn without_date(spec: &TableSpec, batches: &[RecordBatch]) -> RecordBatch {
    let columns: Vec<usize> = (0..spec.columns.len()).filter(|index| spec.columns[*index].name != DATE).collect();
    concat_batches(&spec.arrow_schema(), batches).unwrap().project(&columns).unwrap()
}

/// A number of the log as units of a decimal's last place, read digit by digit.
fn unscaled(number: &Value, scale: usize) -> i128 {
    let text = number.to_string();
    let (mantissa, exponent) = text.split_once('e').map_or((text.as_str(), 0), |(m, e)| (m, e.parse::<i32>().unwrap()));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits: i128 = format!("{whole}{fraction}").parse().unwrap();
    let shift = exponent - fraction.len() as i32 + scale as i32;
    if shift >= 0 {
        digits * 10_i128.pow(shift as u32)
    } else {
        assert_eq!(digits % 10_i128.pow(-shift as u32), 0, "{text} has digits below the scale");
        digits / 10_i128.pow(-shift as u32)
    }
}

fn micros(bound: &Value) -> i64 {
    chrono::DateTime::parse_from_rfc3339(bound.as_str().unwrap()).unwrap().timestamp_micros()
}

/// Every value of a column lies between its bounds, where there are bounds.
fn check_bounds(name: &str, array: &ArrayRef, stats: &Value) {
    let (min, max) = (stats["minValues"].get(name), stats["maxValues"].get(name));
    assert_eq!(stats["nullCount"][name], array.null_count(), "{name}");
    match array.data_type() {
        DataType::Utf8 => {
            for text in array.as_string::<i32>().iter().flatten() {
                assert!(min.is_some_and(|min| min.as_str().unwrap() <= text), "{name}: {text:?} below {min:?}");
                assert!(max.is_none_or(|max| text <= max.as_str().unwrap()), "{name}: {text:?} above {max:?}");
            }
            for bound in [min, max].into_iter().flatten() {
                assert!(bound.as_str().unwrap().chars().count() <= 32, "{name}: {bound}");
            }
        }
        DataType::Int64 => {
            for value in array.as_primitive::<Int64Type>().iter().flatten() {
                assert!(min.unwrap().as_i64().unwrap() <= value && value <= max.unwrap().as_i64().unwrap(), "{name}");
            }
        }
        DataType::Timestamp(_, _) => {
            for value in array.as_primitive::<TimestampMicrosecondType>().iter().flatten() {
                assert!(min.is_none_or(|min| micros(min) <= value), "{name}: {value} below {min:?}");
                assert!(max.is_none_or(|max| value <= micros(max)), "{name}: {value} above {max:?}");
            }
        }
        DataType::Date32 => {
            for value in array.as_primitive::<Date32Type>().iter().flatten() {
                let day = format_date(value);
                assert!(min.unwrap().as_str().unwrap() <= day.as_str(), "{name}: {day} below {min:?}");
                assert!(day.as_str() <= max.unwrap().as_str().unwrap(), "{name}: {day} above {max:?}");
            }
        }
        DataType::Float64 => {
            for value in array.as_primitive::<Float64Type>().iter().flatten() {
                // Total order: NaN is above everything, so that no maximum may be told.
                assert!(min.is_none_or(|min| value.is_nan() || min.as_f64().unwrap() <= value), "{name}: {value}");
                assert!(max.is_none_or(|max| value <= max.as_f64().unwrap()), "{name}: {value} above {max:?}");
            }
        }
        DataType::Decimal128(precision, scale) => {
            let scale = *scale as usize;
            for value in array.as_primitive::<Decimal128Type>().iter().flatten() {
                assert!(*precision > 18 || (min.is_some() && max.is_some()), "{name}: no bounds");
                assert!(min.is_none_or(|min| unscaled(min, scale) <= value), "{name}: {value} below {min:?}");
                assert!(max.is_none_or(|max| value <= unscaled(max, scale)), "{name}: {value} above {max:?}");
            }
        }
        other => panic!("no bounds of type {other}"),
    }
}

fn round_trip(spec: &TableSpec, batches: &[RecordBatch]) {
    let encoded = encode(spec, batches).unwrap();
    let (reader, read) = read_back(encoded.to_bytes());
    assert_eq!(**reader.schema(), *spec.file_schema());
    let written = without_date(spec, batches);
    assert_eq!(concat_batches(&spec.file_schema(), &read).unwrap(), written);
    assert_eq!(encoded.stats["numRecords"], written.num_rows());
    // The log holds statistics as text, and a checkpoint writes that text again.
    let text = encoded.stats.to_string();
    let stats: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(stats.to_string(), text);
    for name in spec.statistics {
        check_bounds(name, written.column_by_name(name).unwrap(), &stats);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_type_comes_back_and_lies_within_its_bounds(seed: u64, sizes in prop::collection::vec(1_usize..60, 1..4)) {
        let mut random = SplitMix64::new(seed);
        let batches: Vec<_> = sizes.iter().map(|rows| any_batch(&EVERYTHING, *rows, 20_455, &mut random)).collect();
        round_trip(&EVERYTHING, &batches);
        // Part of a batch begins in the midst of its bitmaps and lists.
        let parts = batches.iter().map(|batch| {
            let from = random.index(batch.num_rows());
            batch.slice(from, 1 + random.index(batch.num_rows() - from))
        });
        round_trip(&EVERYTHING, &parts.collect::<Vec<_>>());
    }
}

/// A table whose columns fill pages in different ways.
const PAGED: TableSpec = TableSpec {
    name: "paged",
    comment: "A table of these tests",
    columns: &[
        Column::required("date", ColumnType::Date, "day"),
        Column::required("id", ColumnType::Text, "all different"),
        Column::optional("word", ColumnType::Text, "few different ones"),
        Column::optional("count", ColumnType::Int64, "ascending, some NULL"),
        Column::optional("nothing", ColumnType::Events, "always NULL"),
        Column::required("map", ColumnType::TextMap, "a large value here and there"),
    ],
    statistics: &["id", "word", "count"],
    bloom_filters: &[],
    sums: &[],
    attributes: &[],
};

/// A batch of ascending numbers with values of many pages in its map.
fn paged_batch(from: usize, rows: usize) -> RecordBatch {
    let numbers = || from..from + rows;
    let mut map = arrow::array::MapBuilder::new(
        Some(arrow::array::MapFieldNames { entry: "key_value".into(), key: "key".into(), value: "value".into() }),
        arrow::array::StringBuilder::new(),
        arrow::array::StringBuilder::new(),
    );
    for number in numbers() {
        for key in 0..number % 3 {
            map.keys().append_value(format!("key {key}"));
            let large = number % 1_000 == 2 && key == 0;
            map.values().append_value(if large { number.to_string().repeat(100_000) } else { number.to_string() });
        }
        map.append(true).unwrap();
    }
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Date32Array::from(vec![20_455; rows])),
        Arc::new(StringArray::from_iter_values(numbers().map(|number| format!("{number:08}")))),
        Arc::new(
            numbers().map(|number| (number % 7 > 0).then(|| format!("word {}", number % 5))).collect::<StringArray>(),
        ),
        Arc::new(numbers().map(|number| (number / 30_000 != 1).then_some(number as i64)).collect::<Int64Array>()),
        new_null_array(&ColumnType::Events.arrow_type(), rows),
        Arc::new(map.finish()),
    ];
    RecordBatch::try_new(PAGED.arrow_schema(), columns).unwrap()
}

/// Scenario: a reader wants a few rows of a file of several pages a column. Guarantee: the offset index leads it to them, in
/// every column; and the bounds of each page hold its values.
#[test]
fn rows_are_found_by_the_page_index() {
    use parquet::arrow::arrow_reader::{ArrowReaderOptions, RowSelection, RowSelector};
    use parquet::file::metadata::PageIndexPolicy;

    let batches: Vec<_> =
        [(0, 25_000), (25_000, 3), (25_003, 40_000)].map(|(from, rows)| paged_batch(from, rows)).into();
    let whole = without_date(&PAGED, &batches);
    let bytes = encode(&PAGED, &batches).unwrap().to_bytes();
    let options = || ArrowReaderOptions::new().with_page_index_policy(PageIndexPolicy::Required);
    let builder = || ParquetRecordBatchReaderBuilder::try_new_with_options(bytes.clone(), options()).unwrap();
    for (skip, count) in [(0, 1), (19_999, 3), (24_990, 20), (41_001, 4_000), (65_002, 1)] {
        let selection = RowSelection::from(vec![RowSelector::skip(skip), RowSelector::select(count)]);
        let read: Vec<_> = builder().with_row_selection(selection).build().unwrap().map(Result::unwrap).collect();
        assert_eq!(
            concat_batches(&PAGED.file_schema(), &read).unwrap(),
            whole.slice(skip, count),
            "{count} from {skip}"
        );
    }
    let metadata = builder();
    let metadata = metadata.metadata();
    let leaf = |name: &str| {
        let columns = metadata.row_group(0).columns().iter();
        columns.map(|column| column.column_path().string()).position(|path| path == name).unwrap()
    };
    let pages = |name: &str| metadata.offset_index().unwrap()[0][leaf(name)].page_locations().clone();
    assert!(pages("map.key_value.value").len() > 20, "large values do not share pages");
    assert_eq!(pages("nothing.list.element.name").len(), 1, "nothing but levels needs one page");
    let (index, pages) = (&metadata.column_index().unwrap()[0][leaf("count")], pages("count"));
    let parquet::file::page_index::column_index::ColumnIndexMetaData::INT64(index) = index else { panic!("no index") };
    assert!(pages.len() > 3);
    let counts = whole.column_by_name("count").unwrap().as_primitive::<Int64Type>();
    for (page, location) in pages.iter().enumerate() {
        let end = pages.get(page + 1).map_or(whole.num_rows(), |next| next.first_row_index as usize);
        let from = location.first_row_index as usize;
        let values = counts.slice(from, end - from);
        assert_eq!(index.null_count(page), Some(values.null_count() as i64));
        assert_eq!(index.min_value(page).copied(), arrow::compute::min(&values), "page {page}");
        assert_eq!(index.max_value(page).copied(), arrow::compute::max(&values), "page {page}");
    }
}

#[test]
fn rows_beyond_a_row_group_go_to_the_next() {
    let batch = paged_batch(0, 10);
    let groups = |limit| {
        let groups = encoder::row_groups(&[batch.clone(), batch.clone(), batch.slice(0, 0)], limit);
        groups.iter().map(|group| group.iter().map(RecordBatch::num_rows).collect::<Vec<_>>()).collect::<Vec<_>>()
    };
    assert_eq!(groups(20), [vec![10, 10]]);
    assert_eq!(groups(10), [vec![10], vec![10]]);
    assert_eq!(groups(7), [vec![7], vec![3, 4], vec![6]]);
}

#[test]
fn the_tables_of_the_contract_come_back() {
    for (seed, spec) in TABLES.iter().enumerate() {
        let mut random = SplitMix64::new(seed as u64);
        round_trip(spec, &[any_batch(spec, 300, 20_455, &mut random), any_batch(spec, 1, 20_455, &mut random)]);
    }
}

#[test]
fn encodings_are_what_the_design_says() {
    let batch = any_batch(&EVERYTHING, 500, 20_455, &mut SplitMix64::new(3));
    let (reader, _) = read_back(encode(&EVERYTHING, &[batch]).unwrap().to_bytes());
    let metadata = reader.metadata();
    assert!(metadata.file_metadata().created_by().unwrap().starts_with("spanlake "));
    let group = metadata.row_group(0);
    let column = |name: &str| group.columns().iter().find(|column| column.column_path().string() == name).unwrap();
    let encoded = |name: &str, encoding| column(name).encodings().any(|found| found == encoding);
    for name in ["start", "count", "events.list.element.time_unix_nano"] {
        assert!(encoded(name, parquet::basic::Encoding::DELTA_BINARY_PACKED), "{name}");
    }
    assert!(encoded("ratio", parquet::basic::Encoding::BYTE_STREAM_SPLIT));
    assert!(column("id").bloom_filter_offset().is_some() && column("text").bloom_filter_offset().is_none());
    assert!(column("id").column_index_offset().is_some() && column("id").offset_index_offset().is_some());
    assert!(column("map.key_value.value").statistics().is_none());
    let compressed = |column: &parquet::file::metadata::ColumnChunkMetaData| {
        matches!(column.compression(), parquet::basic::Compression::ZSTD(_))
    };
    assert!(group.columns().iter().all(compressed));
}

async fn everything(store: &Store) -> Table {
    Table::open_or_create(store, "default", &EVERYTHING).await.unwrap()
}

#[tokio::test]
async fn batches_are_split_by_date_and_come_back_from_the_table() {
    let directory = tempfile::tempdir().unwrap();
    let table = everything(&Store::open(directory.path().to_str().unwrap()).unwrap()).await;
    let mut random = SplitMix64::new(9);
    let (one, other) =
        (any_batch(&EVERYTHING, 40, 20_455, &mut random), any_batch(&EVERYTHING, 30, 20_456, &mut random));
    // The days of both in one batch, row by row in turn.
    let both = concat_batches(&EVERYTHING.arrow_schema(), [&one, &other]).unwrap();
    let turns = UInt32Array::from_iter_values((0..30).flat_map(|row| [row, row + 40]).chain(30..40));
    let mixed = take_record_batch(&both, &turns).unwrap();
    let files = write(&table, &[mixed, other.clone()], "w1-1").await.unwrap();
    let paths: Vec<_> = files.iter().map(|file| file.segment.path.as_str()).collect();
    assert_eq!(paths, ["date=2026-01-02/w1-1-0.zstd.parquet", "date=2026-01-03/w1-1-1.zstd.parquet"]);
    assert_eq!(files.iter().map(|file| file.segment.rows()).collect::<Vec<_>>(), [Some(40), Some(60)]);
    let commit = Commit { adds: files, operation: "WRITE", ..Commit::default() };
    let outcome = table.commit(commit, None).await.unwrap();
    let CommitOutcome::Committed(snapshot) = outcome else { panic!("{outcome:?}") };
    for (segment, expected) in snapshot.segments.iter().zip([vec![one], vec![other.clone(), other]]) {
        let path = table.object_path(&segment.path).unwrap();
        let bytes = table.store().object_store().get(&path).await.unwrap().bytes().await.unwrap();
        assert_eq!(bytes.len() as u64, segment.size_bytes);
        let (_, read) = read_back(bytes);
        let read = concat_batches(&EVERYTHING.file_schema(), &read).unwrap();
        assert_eq!(read, without_date(&EVERYTHING, &expected));
    }
}

#[tokio::test]
async fn what_does_not_fit_the_table_is_refused_and_leaves_nothing() {
    let objects = Arc::new(InMemory::new());
    let table = everything(&Store::with_object_store("memory://", objects.clone())).await;
    let batch = any_batch(&EVERYTHING, 3, 20_455, &mut SplitMix64::new(1));
    let narrow = batch.project(&[0, 1]).unwrap();
    let swapped = batch.project(&[0, 2, 1, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14]).unwrap();
    for (wrong, word) in [(narrow, "2 columns"), (swapped, "column text")] {
        let error = write(&table, &[wrong], "x").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains(word), "{error}");
    }
    assert!(write(&table, &[], "x").await.unwrap().is_empty());
    assert!(write(&table, &[batch.slice(0, 0)], "x").await.unwrap().is_empty());
    let objects: Vec<_> = objects.list(None).try_collect().await.unwrap();
    assert_eq!(objects.len(), 1, "{objects:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_object_goes_to_s3_in_parts() {
    let server = S3Server::start("lakes").await;
    let store = Store::open_with_environment(&server.url("prefix"), server.environment()).unwrap();
    let mut random = SplitMix64::new(5);
    let bytes: Bytes = (0..(PART_BYTES * 2 + 77) / 8 + 1).flat_map(|_| random.next_u64().to_le_bytes()).collect();
    let path = object_store::path::Path::from("date=2026-01-02/large");
    upload_in_parts(
        store.object_store().as_ref(),
        &path,
        bytes.chunks(3 << 20).map(|piece| bytes.slice_ref(piece)).collect(),
    )
    .await
    .unwrap();
    assert_eq!(store.object_store().get(&path).await.unwrap().bytes().await.unwrap(), bytes);
}
