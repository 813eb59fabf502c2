//! The session of one statement: functions and settings shared by all, and the tables of one tenant.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::{Arc, Weak};

use async_trait::async_trait;
use datafusion::catalog::{CatalogProvider, CatalogProviderList, SchemaProvider, TableProvider};
use datafusion::common::exec_datafusion_err;
use datafusion::datasource::ViewTable as PlannedView;
use datafusion::datasource::empty::EmptyTable;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::SessionStateDefaults;
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::TrackConsumersPool;
use datafusion::execution::object_store::ObjectStoreRegistry;
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::execution::session_state::{SessionState, SessionStateBuilder};
use datafusion::prelude::SessionConfig;
use object_store::ObjectStore;
use parking_lot::RwLock;
use spanlake_schema::{DEFAULT_TENANT, TABLES, TableSpec, corrections, messages, spans};
use spanlake_storage::TableSource;
use tokio::sync::OnceCell;

use crate::attributes::{PROMOTED_COLUMNS, promoted_columns};
use crate::contents::FilledView;
use crate::cooperation::CooperativeJoins;
use crate::corrected::CorrectedTable;
use crate::functions::{aggregate_functions, scalar_functions};
use crate::pool::QueryPool;
use crate::table::ViewTable;
use crate::views::{View, Views};
use crate::{QueryError, QueryOptions};

/// The catalogue that every tenant sees as its own.
const CATALOG: &str = "spanlake";

/// Its only schema.
const SCHEMA: &str = "public";

/// Bytes of Parquet footers kept in memory.
const FOOTER_CACHE_BYTES: usize = 64 * 1024 * 1024;

/// How many consumers an out-of-memory message names.
const NAMED_CONSUMERS: NonZeroUsize = NonZeroUsize::MIN.saturating_add(4);

/// Memory, spill files and stores of all statements.
pub(crate) fn runtime_env(options: &QueryOptions) -> Result<Arc<RuntimeEnv>, QueryError> {
    let pool = TrackConsumersPool::new(QueryPool::new(options.memory_limit_bytes, options.threads), NAMED_CONSUMERS);
    let disk = DiskManagerBuilder::default()
        .with_mode(DiskManagerMode::OsTmpDirectory)
        .with_max_temp_directory_size(options.spill_limit_bytes);
    let env = RuntimeEnvBuilder::new()
        .with_memory_pool(Arc::new(pool))
        .with_disk_manager_builder(disk)
        .with_object_store_registry(Arc::new(LakeStores::default()))
        .with_metadata_cache_limit(FOOTER_CACHE_BYTES.min(options.memory_limit_bytes / 4))
        .build_arc()?;
    Ok(env)
}

/// Functions and settings; no table. Cloned for each statement, which copies a few maps of pointers.
pub(crate) fn base_state(options: &QueryOptions, env: Arc<RuntimeEnv>) -> SessionState {
    let mut config = SessionConfig::new()
        .with_default_catalog_and_schema(CATALOG, SCHEMA)
        .with_create_default_catalog_and_schema(false)
        .with_information_schema(true)
        .with_target_partitions(options.threads.max(1));
    let settings = config.options_mut();
    settings.sql_parser.collect_spans = true;
    settings.sql_parser.map_string_types_to_utf8view = false;
    settings.execution.parquet.pushdown_filters = true;
    settings.execution.parquet.reorder_filters = true;
    settings.execution.parquet.bloom_filter_on_read = true;
    settings.execution.parquet.enable_page_index = true;
    settings.execution.parquet.schema_force_view_types = false;
    // A sort sets this much aside for its merge, in every partition, before it can spill: a small memory limit would be
    // spent on it.
    let share = options.memory_limit_bytes / (options.threads.max(1) * 16);
    settings.execution.sort_spill_reservation_bytes = share.min(settings.execution.sort_spill_reservation_bytes);
    SessionStateBuilder::new()
        .with_config(config)
        .with_runtime_env(env)
        .with_catalog_list(Arc::new(OneCatalog(None)))
        .with_expr_planners(SessionStateDefaults::default_expr_planners())
        .with_scalar_functions(scalar_functions())
        .with_higher_order_functions(SessionStateDefaults::default_higher_order_functions())
        .with_aggregate_functions(aggregate_functions())
        .with_window_functions(SessionStateDefaults::default_window_functions())
        .with_table_function_list(SessionStateDefaults::default_table_functions())
        .with_physical_optimizer_rule(Arc::new(CooperativeJoins))
        .build()
}

/// The state of one statement: the base, the tables of one tenant, each captured once, when first named, and the views.
pub(crate) fn statement_state(
    base: &Arc<SessionState>,
    source: Arc<dyn TableSource>,
    tenant: &str,
    views: &Arc<Views>,
) -> SessionState {
    let mut specs = source.tables(tenant);
    if specs.iter().any(|spec| spec.name == spans::SPEC.name) {
        specs.push(&PROMOTED_COLUMNS);
    }
    let tables = specs.into_iter().map(|spec| (spec.name, Captured { spec, view: OnceCell::new() })).collect();
    state_over(base, Some((source, tenant.to_owned())), tables, views)
}

/// A state in which every table there is stands empty, `spans` with the columns that it has in a source: for checking what is not
/// to be run.
pub(crate) async fn empty_state(
    base: &Arc<SessionState>,
    source: &Arc<dyn TableSource>,
    views: &Arc<Views>,
) -> SessionState {
    // Where the source cannot be read now, a view that names a promoted column is refused like one that names nothing.
    let spans = source.view(DEFAULT_TENANT, spans::SPEC.name).await.ok().flatten();
    let spans =
        spans.filter(|view| view.table.spec().name == spans::SPEC.name).map(|view| ViewTable::new(view).schema());
    let empty = |spec: &'static TableSpec| {
        let columns = spans.clone().filter(|_| spec.name == spans::SPEC.name).unwrap_or_else(|| spec.arrow_schema());
        let table: Arc<dyn TableProvider> = Arc::new(EmptyTable::new(columns));
        (spec.name, Captured { spec, view: OnceCell::new_with(Some(Some(table))) })
    };
    state_over(base, None, TABLES.iter().copied().chain([&PROMOTED_COLUMNS]).map(empty).collect(), views)
}

fn state_over(
    base: &Arc<SessionState>,
    source: Option<(Arc<dyn TableSource>, String)>,
    tables: HashMap<&'static str, Captured>,
    views: &Arc<Views>,
) -> SessionState {
    let captures = Arc::new(Captures { source, tables });
    let schema = |below| {
        let there = |view: &&View| view.tables.iter().all(|table| captures.tables.contains_key(table.as_str()));
        let planned = views.iter().filter(there).map(|view| (view.name.clone(), OnceCell::new())).collect();
        Arc::new_cyclic(|me| TenantSchema {
            captures: Arc::clone(&captures),
            views: Arc::clone(views),
            planned,
            base: Arc::clone(base),
            below,
            me: me.clone(),
        })
    };
    schema(Some(schema(None))).state()
}

/// A list of one catalogue that cannot grow.
#[derive(Debug)]
struct OneCatalog(Option<Arc<TenantCatalog>>);

impl CatalogProviderList for OneCatalog {
    fn register_catalog(&self, _: String, _: Arc<dyn CatalogProvider>) -> Option<Arc<dyn CatalogProvider>> {
        None
    }

    fn catalog_names(&self) -> Vec<String> {
        self.0.iter().map(|_| CATALOG.to_owned()).collect()
    }

    fn catalog(&self, name: &str) -> Option<Arc<dyn CatalogProvider>> {
        let catalog = self.0.as_ref().filter(|_| name == CATALOG)?;
        Some(Arc::clone(catalog) as Arc<dyn CatalogProvider>)
    }
}

#[derive(Debug)]
struct TenantCatalog(Arc<TenantSchema>);

impl CatalogProvider for TenantCatalog {
    fn schema_names(&self) -> Vec<String> {
        vec![SCHEMA.to_owned()]
    }

    fn schema(&self, name: &str) -> Option<Arc<dyn SchemaProvider>> {
        (name == SCHEMA).then(|| Arc::clone(&self.0) as Arc<dyn SchemaProvider>)
    }
}

/// The tables of one tenant and the views over them, as one statement sees them.
#[derive(Debug)]
struct TenantSchema {
    captures: Arc<Captures>,
    views: Arc<Views>,
    /// The views whose tables are there, planned when first named.
    planned: HashMap<String, OnceCell<Arc<dyn TableProvider>>>,
    base: Arc<SessionState>,
    /// The same without contents filled in, which is what views with contents read; `None` for that one itself.
    below: Option<Arc<Self>>,
    me: Weak<Self>,
}

/// The tables as they were when they were first named.
#[derive(Debug)]
struct Captures {
    /// Where tables come from, and whose; `None` where all of them are captured.
    source: Option<(Arc<dyn TableSource>, String)>,
    tables: HashMap<&'static str, Captured>,
}

#[derive(Debug)]
struct Captured {
    spec: &'static TableSpec,
    view: OnceCell<Option<Arc<dyn TableProvider>>>,
}

impl TenantSchema {
    /// The base with these tables.
    fn state(self: &Arc<Self>) -> SessionState {
        let mut state = SessionState::clone(&self.base);
        state.register_catalog_list(Arc::new(OneCatalog(Some(Arc::new(TenantCatalog(Arc::clone(self)))))));
        state.mark_start_execution();
        state
    }

    async fn plan(&self, name: &str, planned: &OnceCell<Arc<dyn TableProvider>>) -> Result<Arc<dyn TableProvider>> {
        let plan = || async {
            let (Some(view), Some(schema)) = (self.views.get(name), self.me.upgrade()) else {
                return Err(exec_datafusion_err!("view {name} is gone"));
            };
            let below = self.below.as_ref().filter(|_| view.fills);
            let plan = below.unwrap_or(&schema).state().statement_to_plan(view.statement.clone()).await;
            let plan = plan.map_err(|error| view.locate(error.into()))?;
            let planned = PlannedView::new(plan, Some(view.sql.clone()));
            if below.is_none() {
                return Ok(Arc::new(planned) as Arc<dyn TableProvider>);
            }
            let contents = self.captures.table(messages::CONTENTS_SPEC.name).await?;
            let contents = contents.ok_or_else(|| exec_datafusion_err!("the contents of {name} are gone"))?;
            Ok::<_, DataFusionError>(Arc::new(FilledView::new(planned, contents, Arc::clone(&self.base))))
        };
        Ok(Arc::clone(planned.get_or_try_init(plan).await?))
    }
}

impl Captures {
    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        let Some(captured) = self.tables.get(name) else { return Ok(None) };
        let capture = || async {
            let Some((source, tenant)) = &self.source else { return Ok(None) };
            if captured.spec.name == PROMOTED_COLUMNS.name {
                let spans = source.view(tenant, spans::SPEC.name).await.map_err(QueryError::from)?;
                return spans.map(|spans| promoted_columns(&spans.snapshot.promoted)).transpose();
            }
            let view = source.view(tenant, captured.spec.name).await.map_err(QueryError::from)?;
            let Some(view) = view else { return Ok(None) };
            if view.table.spec().name != spans::SPEC.name {
                return Ok::<_, DataFusionError>(Some(Arc::new(ViewTable::new(view)) as Arc<dyn TableProvider>));
            }
            let names = [captured.spec.name, corrections::SPEC.name];
            let captured = source.capture(tenant, &names).await.map_err(QueryError::from)?;
            let named = |name: &str| captured.views.iter().find(|view| view.table.spec().name == name).cloned();
            Ok(named(spans::SPEC.name).map(|spans| CorrectedTable::over(spans, named(corrections::SPEC.name))))
        };
        Ok(captured.view.get_or_try_init(capture).await?.clone())
    }
}

#[async_trait]
impl SchemaProvider for TenantSchema {
    fn table_names(&self) -> Vec<String> {
        let tables = self.captures.tables.keys().map(|name| (*name).to_owned());
        let mut names: Vec<String> = tables.chain(self.planned.keys().cloned()).collect();
        names.sort_unstable();
        names
    }

    /// Every mention of a table in a statement gets the same view, so that a table joined with itself agrees with itself.
    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        if self.captures.tables.contains_key(name) {
            return self.captures.table(name).await;
        }
        match self.planned.get(name) {
            Some(planned) => Ok(Some(self.plan(name, planned).await?)),
            None => Ok(None),
        }
    }

    fn table_exist(&self, name: &str) -> bool {
        self.captures.tables.contains_key(name) || self.planned.contains_key(name)
    }
}

/// The stores that scans registered, and no other: DataFusion's own registry would hand out the local file system.
#[derive(Debug, Default)]
struct LakeStores(RwLock<HashMap<String, Arc<dyn ObjectStore>>>);

impl ObjectStoreRegistry for LakeStores {
    fn register_store(&self, url: &url::Url, store: Arc<dyn ObjectStore>) -> Option<Arc<dyn ObjectStore>> {
        self.0.write().insert(key(url), store)
    }

    fn get_store(&self, url: &url::Url) -> Result<Arc<dyn ObjectStore>> {
        let store = self.0.read().get(&key(url)).cloned();
        store.ok_or_else(|| exec_datafusion_err!("no store is registered for {url}"))
    }
}

fn key(url: &url::Url) -> String {
    format!("{}://{}", url.scheme(), url.authority())
}
