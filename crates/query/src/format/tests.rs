use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryViewArray, BooleanArray, Date32Array, Decimal128Array, Float64Array, Int64Array,
    ListArray, MapBuilder, StringArray, StringBuilder, StringViewArray, StructArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use arrow::ipc::reader::StreamReader;
use arrow::record_batch::RecordBatch;
use bytes::Bytes;
use datafusion::error::DataFusionError;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::TryStreamExt;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::{Format, encode, table};
use crate::{QueryError, QueryErrorKind};

const ALL: [Format; 5] = [Format::Json, Format::NdJson, Format::Csv, Format::ArrowStream, Format::Parquet];

/// Two rows of every type: values that need care, and NULLs.
fn awkward() -> RecordBatch {
    let decimals = |values: [Option<i128>; 2], precision, scale| {
        let array: Decimal128Array = values.into_iter().collect();
        Arc::new(array.with_precision_and_scale(precision, scale).expect("a decimal")) as ArrayRef
    };
    let mut map = MapBuilder::new(None, StringBuilder::new(), StringBuilder::new());
    map.keys().append_value("a\"b");
    map.values().append_value("1");
    map.keys().append_value("c");
    map.values().append_null();
    map.append(true).expect("as many values as keys");
    map.append(false).expect("as many values as keys");
    let list = ListArray::from_iter_primitive::<Int64Type, _, _>([Some(vec![Some(1), None]), None]);
    let inner: ArrayRef = Arc::new(StringArray::from(vec![Some("x, \"y\""), None]));
    let structure = StructArray::from(vec![(Arc::new(Field::new("z", DataType::Utf8, true)), inner)]);
    let time = TimestampMicrosecondArray::from(vec![Some(1_772_323_200_000_001), None]);
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("text", Arc::new(StringArray::from(vec![Some("a, \"b\"\nü"), None]))),
        ("view", Arc::new(StringViewArray::from(vec![Some(""), None]))),
        ("bytes", Arc::new(BinaryViewArray::from(vec![Some(&[0u8, 255][..]), None]))),
        ("big", Arc::new(Int64Array::from(vec![Some(i64::MAX), None]))),
        ("float", Arc::new(Float64Array::from(vec![Some(f64::NAN), Some(0.1)]))),
        ("flag", Arc::new(BooleanArray::from(vec![Some(true), None]))),
        ("day", Arc::new(Date32Array::from(vec![Some(20_513), None]))),
        ("time", Arc::new(time.clone().with_timezone("UTC"))),
        ("naive", Arc::new(time)),
        ("usd", decimals([Some(123_000_000), None], 18, 12)),
        ("sum", decimals([Some(12_345_678_901_234_567_890_123_456_789_012_345_678), None], 38, 12)),
        ("minus", decimals([Some(-1), None], 38, 12)),
        ("map", Arc::new(map.finish())),
        ("list", Arc::new(list)),
        ("structure", Arc::new(structure)),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, array)| (name, array, true)))
        .expect("columns of one length")
}

fn stream(schema: SchemaRef, items: Vec<Result<RecordBatch, DataFusionError>>) -> SendableRecordBatchStream {
    Box::pin(RecordBatchStreamAdapter::new(schema, futures::stream::iter(items)))
}

async fn encoded(format: Format, schema: SchemaRef, batches: Vec<RecordBatch>) -> Vec<u8> {
    let pieces = encode(format, stream(schema, batches.into_iter().map(Ok).collect()));
    let pieces: Vec<Bytes> = pieces.try_collect().await.expect("bytes");
    pieces.concat()
}

async fn text(format: Format, batch: &RecordBatch) -> String {
    String::from_utf8(encoded(format, batch.schema(), vec![batch.clone()]).await).expect("UTF-8")
}

#[tokio::test]
async fn json_is_exact_and_explicit() {
    let array = text(Format::Json, &awkward()).await;
    let lines = text(Format::NdJson, &awkward()).await;
    let rows: Vec<&str> = lines.lines().collect();
    assert_eq!(array, format!("[{},\n{}]\n", rows[0], rows[1]));
    let first = r#"{"text":"a, \"b\"\nü","view":"","bytes":"00ff","big":9223372036854775807,"float":null,"flag":true,"day":"2026-03-01","time":"2026-03-01T00:00:00.000001Z","naive":"2026-03-01T00:00:00.000001Z","usd":0.000123000000,"sum":12345678901234567890123456.789012345678,"minus":-0.000000000001,"map":{"a\"b":"1","c":null},"list":[1,null],"structure":{"z":"x, \"y\""}}"#;
    assert_eq!(rows[0], first);
    let second = r#"{"text":null,"view":null,"bytes":null,"big":null,"float":0.1,"flag":null,"day":null,"time":null,"naive":null,"usd":null,"sum":null,"minus":null,"map":null,"list":null,"structure":{"z":null}}"#;
    assert_eq!(rows[1], second);
    let parsed: serde_json::Value = serde_json::from_str(&array).expect("JSON");
    assert_eq!(parsed.as_array().map(Vec::len), Some(2));
}

#[tokio::test]
async fn csv_quotes_what_needs_it_and_tells_null_from_empty() {
    let csv = text(Format::Csv, &awkward()).await;
    let expected = concat!(
        "text,view,bytes,big,float,flag,day,time,naive,usd,sum,minus,map,list,structure\n",
        "\"a, \"\"b\"\"\nü\",\"\",00ff,9223372036854775807,NaN,true,2026-03-01,2026-03-01T00:00:00.000001Z,",
        "2026-03-01T00:00:00.000001Z,0.000123000000,12345678901234567890123456.789012345678,-0.000000000001,",
        "\"{\"\"a\\\"\"b\"\":\"\"1\"\",\"\"c\"\":null}\",\"[1,null]\",\"{\"\"z\"\":\"\"x, \\\"\"y\\\"\"\"\"}\"\n",
        ",,,,0.1,,,,,,,,,,\"{\"\"z\"\":null}\"\n",
    );
    assert_eq!(csv, expected);
    // Another implementation reads the same cells.
    let schema = Schema::new(
        awkward()
            .schema()
            .fields()
            .iter()
            .map(|field| Field::new(field.name(), DataType::Utf8, true))
            .collect::<Vec<_>>(),
    );
    let reader = arrow::csv::ReaderBuilder::new(Arc::new(schema)).with_header(true).build(csv.as_bytes());
    let read = reader.expect("CSV").next().expect("a batch").expect("rows");
    assert_eq!(read.num_rows(), 2);
    assert_eq!(read.column(0).as_string::<i32>().value(0), "a, \"b\"\nü");
    assert_eq!(read.column(14).as_string::<i32>().value(0), r#"{"z":"x, \"y\""}"#);
}

/// The batch as clients of Arrow and Parquet get it: views become plain types.
fn check_columnar(read: &[RecordBatch]) {
    let wanted = awkward();
    assert_eq!(read.iter().map(RecordBatch::num_rows).sum::<usize>(), 2);
    let read = &read[0];
    assert_eq!(read.schema().field(1).data_type(), &DataType::Utf8);
    assert_eq!(read.schema().field(2).data_type(), &DataType::Binary);
    for (index, column) in read.columns().iter().enumerate() {
        let wanted = arrow::compute::cast(wanted.column(index), column.data_type()).expect("a cast");
        assert_eq!(&wanted, column, "column {}", read.schema().field(index).name());
    }
}

#[tokio::test]
async fn arrow_ipc_reads_back() {
    let bytes = encoded(Format::ArrowStream, awkward().schema(), vec![awkward()]).await;
    let reader = StreamReader::try_new(bytes.as_slice(), None).expect("an IPC stream");
    check_columnar(&reader.collect::<Result<Vec<_>, _>>().expect("batches"));
}

#[tokio::test]
async fn parquet_reads_back() {
    let bytes = encoded(Format::Parquet, awkward().schema(), vec![awkward()]).await;
    let reader = ParquetRecordBatchReaderBuilder::try_new(Bytes::from(bytes)).expect("a Parquet file");
    check_columnar(&reader.build().expect("a reader").collect::<Result<Vec<_>, _>>().expect("batches"));
}

#[tokio::test]
async fn many_rows_come_in_pieces_and_lose_nothing() {
    let column: ArrayRef = Arc::new((0..10_000).collect::<Int64Array>());
    let batch = RecordBatch::try_from_iter([("n", column)]).expect("a batch");
    let schema = batch.schema();
    let batches = vec![batch.slice(0, 3_000), batch.slice(3_000, 0), batch.slice(3_000, 7_000)];
    let pieces = encode(Format::Json, stream(Arc::clone(&schema), batches.iter().cloned().map(Ok).collect()));
    let pieces: Vec<Bytes> = pieces.try_collect().await.expect("bytes");
    assert!(pieces.len() > 9, "{} pieces", pieces.len());
    let json: Vec<serde_json::Value> = serde_json::from_slice(&pieces.concat()).expect("JSON");
    assert_eq!(json.len(), 10_000);
    assert!(json.iter().enumerate().all(|(index, row)| row["n"] == index));
    for format in [Format::NdJson, Format::Csv] {
        let lines = encoded(format, Arc::clone(&schema), batches.clone()).await;
        let lines = String::from_utf8(lines).expect("UTF-8").lines().count();
        assert_eq!(lines, 10_000 + usize::from(format == Format::Csv));
    }
    let bytes = encoded(Format::Parquet, Arc::clone(&schema), batches.clone()).await;
    let reader = ParquetRecordBatchReaderBuilder::try_new(Bytes::from(bytes)).expect("a Parquet file");
    assert_eq!(reader.metadata().file_metadata().num_rows(), 10_000);
    let bytes = encoded(Format::ArrowStream, schema, batches).await;
    let reader = StreamReader::try_new(bytes.as_slice(), None).expect("an IPC stream");
    assert_eq!(reader.map(|batch| batch.expect("a batch").num_rows()).sum::<usize>(), 10_000);
}

#[tokio::test]
async fn an_empty_answer_is_empty_and_whole() {
    let schema = awkward().schema();
    let encoded = async |format| encoded(format, Arc::clone(&schema), Vec::new()).await;
    assert_eq!(encoded(Format::Json).await, b"[]\n");
    assert_eq!(encoded(Format::NdJson).await, b"");
    assert!(encoded(Format::Csv).await.ends_with(b",list,structure\n"));
    let ipc = encoded(Format::ArrowStream).await;
    let reader = StreamReader::try_new(ipc.as_slice(), None).expect("an IPC stream");
    assert_eq!((reader.schema().fields().len(), reader.count()), (15, 0));
    let parquet = ParquetRecordBatchReaderBuilder::try_new(Bytes::from(encoded(Format::Parquet).await));
    assert_eq!(parquet.expect("a Parquet file").metadata().file_metadata().num_rows(), 0);
}

#[tokio::test]
async fn an_error_ends_the_bytes_before_they_look_whole() {
    for format in ALL {
        let error = || Err(DataFusionError::from(QueryError::new(QueryErrorKind::Exhausted, "too many rows")));
        let schema = awkward().schema();
        let mut late: Vec<_> =
            futures::StreamExt::collect(encode(format, stream(Arc::clone(&schema), vec![Ok(awkward()), error()])))
                .await;
        let last = late.pop().expect("an item").expect_err("an error");
        assert_eq!((last.kind, last.message.as_str()), (QueryErrorKind::Exhausted, "too many rows"), "{format:?}");
        let before: Vec<u8> = late.into_iter().flat_map(|piece| piece.expect("bytes")).collect();
        if format == Format::Json {
            assert!(serde_json::from_slice::<serde_json::Value>(&before).is_err(), "the array is not closed");
        }
        let early: Vec<_> = futures::StreamExt::collect(encode(format, stream(schema, vec![error()]))).await;
        assert!(matches!(early.as_slice(), [Err(_)]), "{format:?}: nothing comes before an early error");
    }
}

#[tokio::test]
async fn columns_of_one_name_are_told_apart() {
    let column = |value: i64| Arc::new(Int64Array::from(vec![value])) as ArrayRef;
    let field = |name: &str| Field::new(name, DataType::Int64, false);
    let schema = Arc::new(Schema::new(vec![field("a"), field("a"), field("a_1"), field("a")]));
    let batch = RecordBatch::try_new(schema, vec![column(1), column(2), column(3), column(4)]).expect("a batch");
    assert_eq!(text(Format::NdJson, &batch).await, "{\"a\":1,\"a_2\":2,\"a_1\":3,\"a_3\":4}\n");
    assert_eq!(text(Format::Csv, &batch).await, "a,a_2,a_1,a_3\n1,2,3,4\n");
}

#[test]
fn accept_headers_choose_a_format() {
    let cases = [
        ("", Some(Format::Json)),
        ("*/*", Some(Format::Json)),
        ("application/json", Some(Format::Json)),
        ("Application/JSON; charset=utf-8", Some(Format::Json)),
        ("application/x-ndjson", Some(Format::NdJson)),
        ("application/jsonlines", Some(Format::NdJson)),
        ("text/csv; header=present", Some(Format::Csv)),
        ("text/*", Some(Format::Csv)),
        ("application/vnd.apache.arrow.stream", Some(Format::ArrowStream)),
        ("application/vnd.apache.parquet", Some(Format::Parquet)),
        ("application/x-parquet", Some(Format::Parquet)),
        ("text/csv;q=0.4, application/json;q=0.5", Some(Format::Json)),
        ("text/csv, application/json", Some(Format::Csv)),
        ("text/csv;q=0, */*;q=0.1", Some(Format::Json)),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", Some(Format::Json)),
        ("text/html, image/*", None),
        ("application/json;q=0", None),
        ("text/csv;q=nonsense", None),
    ];
    for (accept, format) in cases {
        assert_eq!(Format::from_accept(accept), format, "{accept}");
    }
    for format in ALL {
        assert_eq!(Format::from_accept(format.content_type()), Some(format));
    }
}

#[test]
fn tables_are_readable() {
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("model", Arc::new(StringArray::from(vec![Some("gpt-4o"), None]))),
        ("usd", Arc::new(Decimal128Array::from(vec![Some(123), None]).with_precision_and_scale(18, 6).expect("usd"))),
    ];
    let batch = RecordBatch::try_from_iter(columns).expect("a batch");
    let lines = [
        "+--------+----------+",
        "| model  | usd      |",
        "+--------+----------+",
        "| gpt-4o | 0.000123 |",
        "| NULL   | NULL     |",
        "+--------+----------+",
    ];
    assert_eq!(table(&batch.schema(), std::slice::from_ref(&batch)), lines.join("\n"));
    let empty = table(&batch.schema(), &[]);
    assert!(empty.contains("| model | usd |"), "{empty}");
}
