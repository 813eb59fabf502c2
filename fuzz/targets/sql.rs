//! Any text as a statement of the SQL endpoint: answered or refused, never an internal error (500), never a panic, and
//! nothing is written, neither to the store nor beside it.
#![no_main]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use futures::StreamExt;
use libfuzzer_sys::fuzz_target;
use spanlake_query::{Parameters, QueryEngine, QueryError, QueryErrorKind, QueryOptions};
use spanlake_schema::{DEFAULT_TENANT, TABLES};
use spanlake_storage::{ReadOnlyLake, Store, Table};
use tokio::runtime::Runtime;

struct World {
    runtime: Runtime,
    engine: Arc<QueryEngine>,
    directory: PathBuf,
    files: BTreeSet<PathBuf>,
}

static WORLD: LazyLock<World> = LazyLock::new(|| {
    let directory = tempfile::tempdir().expect("a directory").keep();
    // Whatever a statement might write with a relative path would appear here.
    std::env::set_current_dir(&directory).expect("a working directory");
    let runtime = Runtime::new().expect("a runtime");
    let engine = runtime.block_on(async {
        let store = Store::open(directory.join("lake").to_str().expect("text")).expect("a store");
        for spec in TABLES {
            Table::open_or_create(&store, DEFAULT_TENANT, spec).await.expect("a table");
        }
        let lake = ReadOnlyLake::open(store).await.expect("a lake");
        let options = QueryOptions {
            memory_limit_bytes: 64 << 20,
            spill_limit_bytes: 64 << 20,
            timeout: Duration::from_millis(300),
            row_limit: 10_000,
            concurrency: 2,
            threads: 1,
        };
        QueryEngine::new(Arc::new(lake), options).expect("an engine")
    });
    let files = files_below(&directory);
    World { runtime, engine, directory, files }
});

fn files_below(directory: &Path) -> BTreeSet<PathBuf> {
    let mut files = BTreeSet::new();
    for entry in std::fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files.extend(files_below(&path));
        } else {
            files.insert(path);
        }
    }
    files
}

fn check(statement: &str, error: &QueryError) {
    assert!(error.kind != QueryErrorKind::Internal, "{statement:?} is answered with 500: {error}");
}

fuzz_target!(|statement: &str| {
    let world = &*WORLD;
    world.runtime.block_on(async {
        match world.engine.sql(DEFAULT_TENANT, statement, Parameters::None).await {
            Err(error) => check(statement, &error),
            Ok(mut rows) => {
                while let Some(batch) = rows.next().await {
                    if let Err(error) = batch {
                        check(statement, &QueryError::from(error));
                    }
                }
            }
        }
    });
    assert_eq!(files_below(&world.directory), world.files, "{statement:?} wrote something");
});
