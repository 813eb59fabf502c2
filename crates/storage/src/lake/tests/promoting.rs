//! Attributes that become columns when their rows are committed.

use arrow::array::{MapBuilder, MapFieldNames, StringBuilder};
use spanlake_schema::ColumnType;
use spanlake_schema::promotion::PromotedColumn;

use super::*;
use crate::{PromotionList, Snapshot};

fn promoting(world: &World, entries: &[&str]) -> LakeOptions {
    let entries: Vec<String> = entries.iter().map(|entry| (*entry).to_owned()).collect();
    LakeOptions { promote: PromotionList::parse(&spans::SPEC, &entries).unwrap(), ..world.options() }
}

/// Spans with one attribute each.
fn tagged(ids: Range<i64>, name: &str, symbol: &str, text: &str) -> Entry {
    let line = format!("{SPANS} {} {} {TODAY}", ids.start, ids.end);
    let (table, rows) = batch_of_line(&line);
    let names = MapFieldNames { entry: "key_value".into(), key: "key".into(), value: "value".into() };
    let mut map = MapBuilder::new(Some(names), StringBuilder::new(), StringBuilder::new());
    for _ in ids.clone() {
        map.keys().append_value(name);
        map.values().append_value(text);
        map.append(true).unwrap();
    }
    let mut columns = rows.columns().to_vec();
    columns[spans::SPEC.index_of("attributes")] = Arc::new(map.finish());
    columns[spans::SPEC.index_of("attribute_types")] = Arc::new(StringArray::from(vec![symbol; rows.num_rows()]));
    let rows = RecordBatch::try_new(rows.schema(), columns).unwrap();
    Entry { frame: frame(DEFAULT_TENANT), payload: Bytes::from(line), batches: vec![(table, rows)] }
}

async fn snapshot(lake: &Lake) -> Arc<Snapshot> {
    view(lake, SPANS).await.snapshot
}

fn promoted(name: &str, attribute: &str, column_type: ColumnType) -> PromotedColumn {
    PromotedColumn { name: name.to_owned(), attribute: attribute.to_owned(), column_type }
}

/// The texts of a promoted column in each file that says it holds it.
async fn held(world: &World, snapshot: &Snapshot, column: &str) -> Vec<Vec<Option<String>>> {
    let mut held = Vec::new();
    for segment in snapshot.segments.iter().filter(|segment| segment.holds(column)) {
        let path = object_store::path::Path::from(format!("{DEFAULT_TENANT}/{SPANS}/{}", segment.path));
        let bytes = world.objects.get(&path).await.unwrap().bytes().await.unwrap();
        let reader = ParquetRecordBatchReaderBuilder::try_new(bytes).unwrap().build().unwrap();
        for batch in reader {
            let batch = batch.unwrap();
            let texts = batch.column_by_name(column).unwrap().as_string::<i32>();
            held.push(texts.iter().map(|text| text.map(str::to_owned)).collect());
        }
    }
    held
}

/// Scenario: an attribute that is wanted comes for the first time while the store takes no other metadata, then in another
/// type, then the list is empty again.
/// Guarantee: the column is there before a file has it; a flush that could not make it is made good by the next; another type
/// is counted and changes nothing; a column that is there goes on being filled; a process that never heard of the list sees it.
#[tokio::test]
async fn a_column_is_made_with_the_first_value_and_stays() {
    let world = World::new();
    let lake = open(promoting(&world, &["customer.tier"])).await.unwrap();
    lake.append(tagged(0..2, "customer.tier", "s", "gold")).await.unwrap();
    world.objects.inject_run(Operation::Put, SPANS, 1, u64::MAX, Fault::Fail);
    lake.flush().await.unwrap_err();
    assert!(snapshot(&lake).await.promoted.is_empty());
    world.objects.heal();
    lake.flush().await.unwrap();
    let column = promoted("customer_tier", "customer.tier", ColumnType::Text);
    let first = snapshot(&lake).await;
    assert_eq!(*first.promoted, std::slice::from_ref(&column));
    let gold = || Some("gold".to_owned());
    assert_eq!(held(&world, &first, "customer_tier").await, [[gold(), gold()]]);

    lake.append(tagged(2..5, "customer.tier", "i", "7")).await.unwrap();
    lake.flush().await.unwrap();
    assert_eq!(lake.stats().promotion.conflicts["customer_tier"], 3);
    lake.shutdown().await.unwrap();

    let lake = open(world.options()).await.unwrap();
    lake.append(tagged(5..6, "customer.tier", "s", "gold")).await.unwrap();
    lake.append(tagged(6..7, "customer.region", "s", "eu")).await.unwrap();
    lake.flush().await.unwrap();
    let last = snapshot(&lake).await;
    assert_eq!(*last.promoted, [column]);
    let mut rows = held(&world, &last, "customer_tier").await;
    rows.sort();
    assert_eq!(rows, [vec![None, None, None], vec![gold(), None], vec![gold(), gold()]]);
    assert_ids(&ids(&*lake, SPANS).await, 0..7);
}

/// Scenario: memory has no room for rows with an attribute that is wanted, so that their files are written before the table can
/// have its column.
/// Guarantee: their commit makes the column; the files say that they lack it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_were_spilled_get_their_column() {
    let world = World::new();
    let lake = open(LakeOptions { hot_limit_bytes: 400_000, ..promoting(&world, &["reg:customer.*"]) }).await.unwrap();
    world.objects.inject_run(Operation::Put, SPANS, 1, u64::MAX, Fault::Fail);
    let mut sent = 0;
    while lake.stats().spills_total == 0 {
        let entry = tagged(sent..sent + 1, "customer.tier", "s", "gold");
        sent += i64::from(lake.append(entry).await.is_ok());
        tokio::task::yield_now().await;
    }
    assert!(snapshot(&lake).await.promoted.is_empty());
    world.objects.heal();
    wait_until("all is committed", async || lake.flush().await.ok()).await;
    let last = snapshot(&lake).await;
    assert_eq!(*last.promoted, [promoted("customer_tier", "customer.tier", ColumnType::Text)]);
    assert!(last.segments.iter().any(|segment| !segment.holds("customer_tier")));
    assert_ids(&ids(&*lake, SPANS).await, 0..sent);
}
