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

/// What a backfill did, in files and rows; and all that the table then shows.
async fn backfill(lake: &Lake, is_dry_run: bool) -> (u64, u64, Vec<String>) {
    let done = lake.backfill(DEFAULT_TENANT, SPANS, i32::MIN..=i32::MAX, is_dry_run).await.unwrap();
    assert_eq!(done.left_files, 0);
    (done.files, done.rows, done.columns.into_iter().map(|column| column.name).collect())
}

/// Scenario: a table has files from before the list, with attributes of which some come no more; the store fails in the midst of
/// a backfill; rows are flushed while it runs.
/// Guarantee: a dry run changes nothing; what failed is done by the next run, a third does nothing; its commits change no rows
/// and no position; every row is there once and every file holds every column.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_from_before_get_their_columns() {
    let world = World::new();
    let lake = world.open().await;
    for number in 0..20 {
        lake.append(tagged(2 * number..2 * number + 2, "customer.tier", "s", "gold")).await.unwrap();
        lake.flush().await.unwrap();
    }
    lake.append(tagged(40..43, "customer.seats", "i", "5")).await.unwrap();
    lake.shutdown().await.unwrap();
    let lake = open(promoting(&world, &["reg:customer[.].*"])).await.unwrap();
    lake.append(tagged(43..44, "customer.tier", "s", "tin")).await.unwrap();
    lake.flush().await.unwrap();
    let before = snapshot(&lake).await;
    assert_eq!(backfill(&lake, true).await, (22, 44, vec!["customer_seats".to_owned()]));
    assert_eq!(snapshot(&lake).await, before);

    // The columns and sixteen files are committed, then nothing for as long as it tries.
    world.objects.inject_run(Operation::Put, "spans/_delta_log", 3, 1_000, Fault::Fail);
    let all = i32::MIN..=i32::MAX;
    lake.backfill(DEFAULT_TENANT, SPANS, all, false).await.unwrap_err();
    world.objects.heal();
    let half = snapshot(&lake).await;
    let holding = half.segments.iter().filter(|segment| segment.holds("customer_seats")).count();
    assert_eq!((half.segments.len(), holding), (22, 16));
    let flushing = async {
        for id in 44..50 {
            lake.append(tagged(id..id + 1, "customer.tier", "s", "tin")).await.unwrap();
            lake.flush().await.unwrap();
        }
    };
    let (done, ()) = tokio::join!(backfill(&lake, false), flushing);
    assert_eq!(done.0, 6);
    assert_eq!(backfill(&lake, false).await, (0, 0, Vec::new()));
    let last = snapshot(&lake).await;
    let (texts, numbers) = ("customer_tier", "customer_seats");
    assert!(last.segments.iter().all(|segment| segment.holds(texts) && segment.holds(numbers)), "{last:?}");
    let held: Vec<Option<String>> = held(&world, &last, texts).await.concat();
    let count = |text: Option<&str>| held.iter().filter(|held| held.as_deref() == text).count();
    assert_eq!((count(Some("gold")), count(Some("tin")), count(None)), (40, 7, 3));
    assert_ids(&ids(&*lake, SPANS).await, 0..50);

    let table = lake.table(DEFAULT_TENANT, SPANS).unwrap();
    let changes = table.changes(before.version, last.version).await.unwrap();
    let rewriting: Vec<_> = changes.iter().filter(|change| !change.removes.is_empty()).collect();
    assert_eq!(rewriting.len(), 2);
    assert!(rewriting.iter().all(|change| !change.data_change));
    lake.shutdown().await.unwrap();
    let again = world.open().await;
    assert_eq!(again.stats().hot_rows, 0);
    assert_ids(&ids(&*again, SPANS).await, 0..50);
}
