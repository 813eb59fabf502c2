use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Date32Array, MapBuilder, MapFieldNames, RecordBatch, RecordBatchReader, StringArray,
    StringBuilder,
};
use arrow::compute::concat_batches;
use arrow::datatypes::{Float64Type, Int64Type};
use bytes::Bytes;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::bloom_filter::Sbbf;
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaDataReader};
use parquet::file::properties::WriterProperties;
use proptest::prelude::*;
use spanlake_schema::promotion::{COLUMNS_MAX, PromotedColumn, column_name};
use spanlake_schema::{Column, ColumnType, TableSpec};
use spanlake_testkit::SplitMix64;

use super::*;
use crate::segment::{self, SegmentFile};

const TAGGED: TableSpec = TableSpec {
    name: "tagged",
    comment: "a table of these tests",
    columns: &[
        Column::required("date", ColumnType::Date, "day"),
        Column::required("attributes", ColumnType::TextMap, "map"),
        Column::required("attribute_types", ColumnType::Text, "types"),
        Column::optional("resource_attributes", ColumnType::TextMap, "map"),
        Column::optional("resource_attribute_types", ColumnType::Text, "types"),
    ],
    statistics: &["attribute_types"],
    bloom_filters: &["attribute_types"],
    sums: &[],
    attributes: &[("attributes", "attribute_types"), ("resource_attributes", "resource_attribute_types")],
};

/// A value as it was sent: its symbols, and its text in the map, where it stands there.
#[derive(Clone, Debug, PartialEq)]
struct Sent {
    symbols: String,
    text: Option<Option<String>>,
}

fn sent(symbols: &str, text: impl AsRef<str>) -> Sent {
    Sent { symbols: symbols.to_owned(), text: Some(Some(text.as_ref().to_owned())) }
}

fn elsewhere(symbols: impl AsRef<str>) -> Sent {
    Sent { symbols: symbols.as_ref().to_owned(), text: None }
}

type Attributes = Vec<(String, Sent)>;

#[derive(Clone, Debug, Default)]
struct Row {
    span: Attributes,
    resource: Option<Attributes>,
}

fn span(attributes: &[(&str, Sent)]) -> Row {
    let span = attributes.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    Row { span, resource: None }
}

fn symbols(attributes: &Attributes) -> String {
    let all: String = attributes.iter().map(|(_, value)| value.symbols.as_str()).collect();
    // Runs, as ingest writes them.
    all.replace("sss", "3s").replace("cccc", "4c")
}

fn map_of<'a>(rows: impl Iterator<Item = Option<&'a Attributes>>) -> ArrayRef {
    let names = MapFieldNames { entry: "key_value".into(), key: "key".into(), value: "value".into() };
    let mut builder = MapBuilder::new(Some(names), StringBuilder::new(), StringBuilder::new());
    for row in rows {
        for (name, value) in row.into_iter().flatten() {
            let Some(text) = &value.text else { continue };
            builder.keys().append_value(name);
            builder.values().append_option(text.as_ref());
        }
        builder.append(row.is_some()).unwrap();
    }
    Arc::new(builder.finish())
}

fn batch(rows: &[Row]) -> RecordBatch {
    let types = |attributes: Option<&Attributes>| attributes.map(symbols);
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Date32Array::from(vec![20_500; rows.len()])),
        map_of(rows.iter().map(|row| Some(&row.span))),
        Arc::new(rows.iter().map(|row| types(Some(&row.span))).collect::<StringArray>()),
        map_of(rows.iter().map(|row| row.resource.as_ref())),
        Arc::new(rows.iter().map(|row| types(row.resource.as_ref())).collect::<StringArray>()),
    ];
    RecordBatch::try_new(TAGGED.arrow_schema(), columns).unwrap()
}

const NAMES: [&str; 6] = ["customer.tier", "seats", "rate", "beta", "größe", "x"];

fn any_value(random: &mut SplitMix64) -> Sent {
    let text = |random: &mut SplitMix64| (*random.pick(&["gold", "", "12", "true", "NaN", "ü"])).to_owned();
    match random.below(12) {
        0..=2 => Sent { symbols: "s".to_owned(), text: Some(Some(text(random))) },
        3 => sent("i", (random.below(100) as i64 - 50).to_string()),
        4 => sent("i", random.pick(&["9007199254740993", "9223372036854775807", "-9223372036854775808"])),
        5 => sent("d", random.pick(&["0.5", "-1.25e300", "NaN", "Infinity", "-Infinity", "-0.0"])),
        6 => sent("b", random.pick(&["true", "false"])),
        7 => sent("y", "AAE="),
        8 => Sent { symbols: (*random.pick(&["e", "n"])).to_owned(), text: Some(None) },
        9 => sent("[s3i{s[]}]", r#"["a",1,2,3,{"k":"v","l":[]}]"#),
        10 => elsewhere(random.pick(&["c", "cccc"])),
        _ => elsewhere(random.pick(&["*A", "*B"])),
    }
}

fn any_attributes(random: &mut SplitMix64) -> Attributes {
    (0..random.below(8)).map(|_| ((*random.pick(&NAMES)).to_owned(), any_value(random))).collect()
}

fn any_rows(count: usize, random: &mut SplitMix64) -> Vec<Row> {
    let row = |random: &mut SplitMix64| Row {
        span: any_attributes(random),
        resource: random.chance(700).then(|| any_attributes(random)),
    };
    let mut rows: Vec<Row> = Vec::new();
    for _ in 0..count {
        // Neighbours have much in common.
        let again = rows.last().filter(|_| random.chance(400)).cloned();
        rows.push(again.unwrap_or_else(|| row(random)));
    }
    rows
}

fn promoted(attribute: &str, column_type: ColumnType) -> PromotedColumn {
    PromotedColumn { name: column_name(attribute), attribute: attribute.to_owned(), column_type }
}

fn any_promoted(random: &mut SplitMix64) -> Vec<PromotedColumn> {
    let types = [ColumnType::Text, ColumnType::Int64, ColumnType::Float64, ColumnType::Bool];
    let names: Vec<&str> = NAMES.into_iter().filter(|_| random.chance(700)).collect();
    names.into_iter().map(|name| promoted(name, *random.pick(&types))).collect()
}

/// What a row says of an attribute: the first value of its span, else of its resource.
fn said<'a>(row: &'a Row, name: &str) -> Option<&'a Sent> {
    let stands = |attributes: &'a Attributes| attributes.iter().find(|(n, v)| n == name && v.text.is_some());
    stands(&row.span).or_else(|| row.resource.as_ref().and_then(stands)).map(|(_, value)| value)
}

/// The value as text that a column of a type has, in words of this test.
fn expected(value: &Sent, column_type: ColumnType) -> Option<String> {
    let text = value.text.clone()??;
    match (value.symbols.as_str(), column_type) {
        ("s", ColumnType::Text) | ("i", ColumnType::Int64) | ("b", ColumnType::Bool) => Some(text),
        ("d", ColumnType::Float64) => Some(text.replace("Infinity", "inf").parse::<f64>().unwrap().to_string()),
        ("i", ColumnType::Float64) if text.len() < 16 => Some(text.parse::<f64>().unwrap().to_string()),
        // Of these three one is a power of two.
        ("i", ColumnType::Float64) if text == "-9223372036854775808" => Some((i64::MIN as f64).to_string()),
        _ => None,
    }
}

fn shown(array: &dyn Array, row: usize) -> Option<String> {
    if array.is_null(row) {
        return None;
    }
    Some(match array.data_type() {
        arrow::datatypes::DataType::Int64 => array.as_primitive::<Int64Type>().value(row).to_string(),
        arrow::datatypes::DataType::Float64 => array.as_primitive::<Float64Type>().value(row).to_string(),
        arrow::datatypes::DataType::Boolean => array.as_boolean().value(row).to_string(),
        _ => array.as_string::<i32>().value(row).to_owned(),
    })
}

fn list(entries: &[&str]) -> PromotionList {
    let entries: Vec<String> = entries.iter().map(|entry| (*entry).to_owned()).collect();
    PromotionList::parse(&TAGGED, &entries).unwrap()
}

fn survey(list: &PromotionList, present: &[PromotedColumn], rows: &[Row]) -> Survey {
    Survey::of(&TAGGED, list, present, &[batch(rows)]).unwrap()
}

proptest! {
    #[test]
    fn a_promoted_column_holds_what_the_maps_say(seed: u64, count in 1_usize..40) {
        let mut random = SplitMix64::new(seed);
        let (rows, columns) = (any_rows(count, &mut random), any_promoted(&mut random));
        let whole = batch(&rows);
        let from = random.index(count);
        for (from, batch) in [(0, whole.clone()), (from, whole.slice(from, count - from))] {
            let arrays = columns_of(&TAGGED, &columns, &batch).unwrap();
            prop_assert_eq!(arrays.len(), columns.len());
            for (column, array) in columns.iter().zip(&arrays) {
                prop_assert_eq!(array.data_type(), &column.column_type.arrow_type());
                for row in 0..batch.num_rows() {
                    let wanted = said(&rows[from + row], &column.attribute)
                        .and_then(|value| expected(value, column.column_type));
                    prop_assert_eq!(shown(array, row), wanted, "{:?} {:?}", column, rows[from + row]);
                }
            }
        }
    }

    #[test]
    fn every_value_that_a_column_does_not_hold_is_counted(seed: u64, count in 1_usize..40) {
        let mut random = SplitMix64::new(seed);
        let (rows, columns) = (any_rows(count, &mut random), any_promoted(&mut random));
        let parts = [batch(&rows), batch(&rows[random.index(count)..])];
        let survey = Survey::of(&TAGGED, &PromotionList::default(), &columns, &parts).unwrap();
        prop_assert!(survey.lacking().is_empty());
        let mut counted = BTreeMap::new();
        for part in &parts {
            let from = count - part.num_rows();
            for column in &columns {
                let values = rows[from..].iter().filter_map(|row| said(row, &column.attribute));
                let lost = values.filter(|value| value.text != Some(None) && expected(value, column.column_type).is_none());
                *counted.entry(column.name.clone()).or_insert(0) += lost.count() as u64;
            }
        }
        counted.retain(|_, count| *count > 0);
        prop_assert_eq!(survey.stats(&columns), PromotionStats { conflicts: counted, ..PromotionStats::default() });
    }

    #[test]
    fn a_segment_holds_its_promoted_columns_and_all_else_unchanged(seed: u64, count in 1_usize..40) {
        let mut random = SplitMix64::new(seed);
        let (rows, columns) = (any_rows(count, &mut random), any_promoted(&mut random));
        let batches = [batch(&rows), batch(&rows[..1])];
        let read = |columns: &[PromotedColumn]| {
            let encoded = segment::encode_with(&TAGGED, columns, &batches).unwrap();
            let reader = ParquetRecordBatchReaderBuilder::try_new(encoded.to_bytes()).unwrap().build().unwrap();
            let read: Vec<RecordBatch> = reader.map(Result::unwrap).collect();
            (concat_batches(&read[0].schema(), &read).unwrap(), encoded.stats)
        };
        let ((with, stats), (without, _)) = (read(&columns), read(&[]));
        let own = TAGGED.columns.len() - 1;
        prop_assert_eq!(&with.columns()[..own], without.columns());
        let all = concat_batches(&batches[0].schema(), &batches).unwrap();
        let wanted = columns_of(&TAGGED, &columns, &all).unwrap();
        for ((column, array), found) in columns.iter().zip(&wanted).zip(&with.columns()[own..]) {
            prop_assert_eq!(format!("{found:?}"), format!("{array:?}"));
            prop_assert_eq!(&stats["nullCount"][&column.name], array.null_count());
            if column.column_type == ColumnType::Int64 && array.null_count() < array.len() {
                let numbers = array.as_primitive::<Int64Type>();
                prop_assert_eq!(stats["minValues"][&column.name].as_i64(), arrow::compute::min(numbers));
            }
        }
    }
}

fn read_back(bytes: Bytes) -> RecordBatch {
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes).unwrap().build().unwrap();
    let schema = reader.schema();
    let batches: Vec<RecordBatch> = reader.map(Result::unwrap).collect();
    concat_batches(&schema, &batches).unwrap()
}

/// A file of small row groups and pages as other programs write it, which say of it what only they understand.
fn foreign(batches: &[RecordBatch]) -> Bytes {
    let properties = WriterProperties::builder()
        .set_max_row_group_row_count(Some(7))
        .set_data_page_row_count_limit(3)
        .set_write_batch_size(1)
        .set_bloom_filter_enabled(true)
        .build();
    let own: Vec<usize> = (1..batches[0].num_columns()).collect();
    let schema = Arc::new(batches[0].schema().project(&own).unwrap());
    let mut writer = ArrowWriter::try_new(Vec::new(), schema, Some(properties)).unwrap();
    batches.iter().for_each(|batch| writer.write(&batch.project(&own).unwrap()).unwrap());
    writer.into_inner().unwrap().into()
}

/// What the footer says of the columns of a file's own, beside where they lie.
fn described(bytes: &Bytes) -> Vec<String> {
    let reader = ParquetMetaDataReader::new().with_page_index_policy(PageIndexPolicy::Optional);
    let metadata = reader.parse_and_finish(bytes).unwrap();
    let mut described = Vec::new();
    for (number, group) in metadata.row_groups().iter().enumerate() {
        for (place, column) in group.columns().iter().enumerate().take(6) {
            let bloom = Sbbf::read_from_column_chunk(column, bytes).unwrap();
            let pages = metadata.offset_index().map(|index| {
                let pages = &index[number][place].page_locations;
                pages.iter().map(|page| (page.first_row_index, page.compressed_page_size)).collect::<Vec<_>>()
            });
            let index = metadata.column_index().map(|index| &index[number][place]);
            described.push(format!(
                "{:?} {} {:?} {:?} {bloom:?} {pages:?} {index:?}",
                column.column_path(),
                column.compressed_size(),
                column.statistics(),
                column.compression_codec()
            ));
        }
    }
    described
}

proptest! {
    #[test]
    fn a_segment_gets_its_columns_later_as_if_it_had_been_written_with_them(seed: u64, count in 1_usize..40) {
        let mut random = SplitMix64::new(seed);
        let (rows, columns) = (any_rows(count, &mut random), any_promoted(&mut random));
        let batches = [batch(&rows), batch(&rows[..1])];
        let wanted = segment::encode_with(&TAGGED, &columns, &batches).unwrap();
        // One that lacks them, one that has others, some of them under the same names, and one of another writer.
        let before = any_promoted(&mut random);
        let older = [segment::encode(&TAGGED, &batches).unwrap(), segment::encode_with(&TAGGED, &before, &batches).unwrap()];
        let files = older.iter().map(|older| (older.to_bytes(), Some(&older.stats))).chain([(foreign(&batches), None)]);
        for (number, (file, stats)) in files.enumerate() {
            let opened = SegmentFile::open(&TAGGED, file.clone()).unwrap();
            prop_assert_eq!(opened.rows(), count + 1);
            let shape = Shape { spec: &TAGGED, promoted: &columns };
            let rewritten = opened.promoted(shape, stats).unwrap();
            prop_assert_eq!(described(&rewritten.to_bytes()), described(&file));
            let (found, expected) = (read_back(rewritten.to_bytes()), read_back(wanted.to_bytes()));
            for (field, array) in expected.schema().fields().iter().zip(expected.columns()) {
                let same = found.column_by_name(field.name()).unwrap();
                prop_assert_eq!(format!("{same:?}"), format!("{array:?}"), "{} of file {}", field.name(), number);
            }
            if number == 0 {
                prop_assert_eq!(&rewritten.stats, &wanted.stats);
            }
            let kept = before.iter().filter(|other| number == 1 && columns.iter().all(|one| one.name != other.name));
            prop_assert_eq!(found.num_columns(), expected.num_columns() + kept.count());
        }
    }
}

#[test]
fn a_new_column_has_the_type_of_the_first_value_and_of_numbers_the_wider() {
    let rows = [
        span(&[("tier", sent("s", "gold")), ("rate", sent("i", "1")), ("on", sent("b", "true"))]),
        span(&[("tier", sent("i", "1")), ("rate", sent("d", "0.5")), ("seats", sent("i", "3"))]),
        span(&[("list", sent("[s]", "[\"a\"]")), ("nothing", Sent { symbols: "e".into(), text: Some(None) })]),
        Row { span: Vec::new(), resource: Some(vec![("region".to_owned(), sent("s", "eu"))]) },
    ];
    let survey = survey(&list(&["reg:.*"]), &[], &rows);
    let columns = survey.lacking();
    let expected = [
        promoted("tier", ColumnType::Text),
        promoted("rate", ColumnType::Float64),
        promoted("on", ColumnType::Bool),
        promoted("seats", ColumnType::Int64),
        promoted("region", ColumnType::Text),
    ];
    assert_eq!(columns, expected);
    let conflicts = BTreeMap::from([("tier".to_owned(), 1)]);
    assert_eq!(survey.stats(&columns), PromotionStats { conflicts, untyped: 1, ..PromotionStats::default() });
}

#[test]
fn only_what_is_on_the_list_gets_a_column_and_what_cannot_is_counted() {
    let rows: Vec<Row> = (0..3)
        .map(|_| {
            span(&[
                ("a.b", sent("s", "1")),
                ("A-b", sent("s", "2")),
                ("date", sent("s", "3")),
                ("other", sent("s", "4")),
                (&"y".repeat(300), sent("s", "5")),
            ])
        })
        .collect();
    let survey = survey(&list(&["reg:(?i)a.b", "reg:date|y+"]), &[], &rows);
    assert_eq!(survey.lacking(), [promoted("a.b", ColumnType::Text)]);
    assert_eq!(survey.stats(&survey.lacking()), PromotionStats { unnamed: 9, ..PromotionStats::default() });
    // Another process gave the column to the other attribute meanwhile.
    let theirs = [promoted("A-b", ColumnType::Text)];
    assert_eq!(survey.stats(&theirs).unnamed, 12);
}

#[test]
fn columns_are_bounded_and_what_finds_no_room_is_counted() {
    let names: Vec<String> = (0..COLUMNS_MAX + 20).map(|number| format!("a.{number}")).collect();
    // Values that no column could hold take no room.
    let untyped = span(&names.iter().map(|name| (name.as_str(), sent("y", "AA=="))).collect::<Vec<_>>());
    let typed =
        span(&names[20..].iter().chain(&names[..20]).map(|name| (name.as_str(), sent("i", "1"))).collect::<Vec<_>>());
    let present: Vec<PromotedColumn> =
        (0..10).map(|number| promoted(&format!("b.{number}"), ColumnType::Bool)).collect();
    let survey = survey(&list(&["reg:a\\..*"]), &present, &[untyped, typed]);
    let lacking = survey.lacking();
    assert_eq!(lacking.len(), COLUMNS_MAX - 10);
    assert_eq!(lacking[0].attribute, "a.20");
    let columns: Vec<PromotedColumn> = present.into_iter().chain(lacking).collect();
    let stats = survey.stats(&columns);
    assert_eq!((stats.untyped, stats.beyond_limit, stats.conflicts.len()), (names.len() as u64, 30, 0));
}

#[test]
fn what_was_surveyed_in_parts_adds_up() {
    let list = list(&["reg:.*"]);
    let first = [span(&[("rate", sent("i", "1")), ("tier", sent("s", "gold"))])];
    let second = [span(&[("rate", sent("d", "0.5")), ("tier", sent("b", "true")), ("new", sent("s", "x"))])];
    let mut merged = survey(&list, &[], &first);
    merged.merge(&survey(&list, &[], &second));
    let together = survey(&list, &[], &[first, second].concat());
    assert_eq!(merged.lacking(), together.lacking());
    assert_eq!(merged.stats(&together.lacking()), together.stats(&together.lacking()));
}
