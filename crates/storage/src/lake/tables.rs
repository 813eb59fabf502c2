//! The tables of each tenant.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::array::AsArray;
use arrow::datatypes::{Date32Type, SchemaRef};
use arrow::record_batch::RecordBatch;
use futures::future::try_join_all;
use parking_lot::RwLock;
use spanlake_schema::{DATE, TABLES, TableSpec};

use super::Entry;
use super::hot::Rows;
use super::meter::Meter;
use crate::{Error, ErrorKind, Result, Store, Table};

const TENANT_BYTES_MAX: usize = 128;

/// All open tables.
#[derive(Debug)]
pub(super) struct Tables {
    store: Store,
    schemas: HashMap<&'static str, SchemaRef>,
    tenants: RwLock<BTreeMap<String, Arc<TenantTables>>>,
    /// Tables that others fill, by tenant and name: the log has no rows for them.
    added: RwLock<BTreeMap<(String, &'static str), Arc<Table>>>,
    /// Held while a tenant's tables are made, so that requests of a new tenant make them once.
    creating: tokio::sync::Mutex<()>,
}

/// The tables of one tenant.
#[derive(Debug)]
pub(super) struct TenantTables {
    pub(super) tenant: String,
    pub(super) tables: BTreeMap<&'static str, Arc<Table>>,
}

impl TenantTables {
    /// Opens all tables of a tenant and makes those that are missing.
    async fn open(store: &Store, tenant: &str) -> Result<Arc<Self>> {
        check_tenant(tenant)?;
        let tables = try_join_all(TABLES.iter().map(|spec| Table::open_or_create(store, tenant, spec))).await?;
        let tables = tables.into_iter().map(|table| (table.spec().name, Arc::new(table))).collect();
        Ok(Arc::new(Self { tenant: tenant.to_owned(), tables }))
    }

    /// `tenant/table` and the table's id, as the log's identity holds them.
    pub(super) fn ids(&self) -> Vec<(String, String)> {
        let id = |(name, table): (&&str, &Arc<Table>)| {
            (format!("{}/{name}", self.tenant), table.snapshot().table_id.clone())
        };
        self.tables.iter().map(id).collect()
    }
}

/// A tenant is a folder's name.
fn check_tenant(tenant: &str) -> Result<()> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let dots_only = tenant.bytes().all(|byte| byte == b'.');
    if dots_only || tenant.len() > TENANT_BYTES_MAX || !tenant.bytes().all(plain) || tenant.starts_with('_') {
        let message = format!(
            "tenant {:?} is not a name of 1 to {TENANT_BYTES_MAX} letters, digits, hyphens, dots and underscores that \
             does not begin with an underscore",
            tenant.chars().take(TENANT_BYTES_MAX).collect::<String>()
        );
        return Err(Error::new(ErrorKind::Invalid, message));
    }
    Ok(())
}

impl Tables {
    pub(super) fn new(store: Store) -> Self {
        let schemas = TABLES.iter().map(|spec| (spec.name, spec.arrow_schema())).collect();
        Self {
            store,
            schemas,
            tenants: RwLock::default(),
            added: RwLock::default(),
            creating: tokio::sync::Mutex::default(),
        }
    }

    pub(super) fn has(&self, tenant: &str) -> bool {
        self.tenants.read().contains_key(tenant)
    }

    pub(super) fn get(&self, tenant: &str, table: &str) -> Option<Arc<Table>> {
        let own = self.tenants.read().get(tenant).and_then(|opened| opened.tables.get(table).cloned());
        own.or_else(|| {
            let added = self.added.read();
            added.iter().find(|((of, name), _)| of == tenant && *name == table).map(|(_, table)| Arc::clone(table))
        })
    }

    /// Opens or makes a table that others fill. One of that name that is open already goes.
    pub(super) async fn add(&self, tenant: &str, spec: &'static TableSpec) -> Result<Arc<Table>> {
        check_tenant(tenant)?;
        if TABLES.iter().any(|known| known.name == spec.name) {
            let message = format!("table {} has rows in the log and cannot be added", spec.name);
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        let table = Arc::new(Table::open_or_create(&self.store, tenant, spec).await?);
        self.added.write().insert((tenant.to_owned(), spec.name), Arc::clone(&table));
        Ok(table)
    }

    pub(super) fn specs(&self, tenant: &str) -> Vec<&'static TableSpec> {
        let mut specs: Vec<_> = match self.tenants.read().get(tenant) {
            Some(opened) => TABLES.iter().copied().filter(|spec| opened.tables.contains_key(spec.name)).collect(),
            None => Vec::new(),
        };
        let added = self.added.read();
        specs.extend(added.iter().filter(|((of, _), _)| of == tenant).map(|(_, table)| table.spec()));
        specs
    }

    pub(super) fn all(&self) -> Vec<Arc<TenantTables>> {
        self.tenants.read().values().cloned().collect()
    }

    /// Every open table.
    pub(super) fn every(&self) -> Vec<Arc<Table>> {
        let own = self.all().into_iter().flat_map(|opened| opened.tables.values().cloned().collect::<Vec<_>>());
        own.chain(self.added.read().values().cloned()).collect()
    }

    /// Opens or makes a tenant's tables. They are not in use before [`Tables::publish`].
    pub(super) async fn create(&self, tenant: &str) -> Result<Arc<TenantTables>> {
        let _creating = self.creating.lock().await;
        if let Some(opened) = self.tenants.read().get(tenant) {
            return Ok(Arc::clone(opened));
        }
        TenantTables::open(&self.store, tenant).await
    }

    pub(super) fn publish(&self, opened: Arc<TenantTables>) {
        self.tenants.write().entry(opened.tenant.clone()).or_insert(opened);
    }

    /// The rows of an entry, in the schemas of their tables.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] where they do not fit.
    pub(super) fn check(&self, entry: &Entry) -> Result<Vec<Rows>> {
        if u32::try_from(entry.payload.len()).is_err() {
            let message = format!("a request of {} bytes is too large for the write-ahead log", entry.payload.len());
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        self.rows(&entry.batches)
    }

    /// Batches as they become hot: in the schemas of their tables, measured, without the empty ones.
    pub(super) fn rows(&self, batches: &[(&'static str, RecordBatch)]) -> Result<Vec<Rows>> {
        let mut meter = Meter::default();
        let filled = batches.iter().filter(|(_, batch)| batch.num_rows() > 0);
        filled.map(|(table, batch)| self.rows_of(table, batch, &mut meter)).collect()
    }

    fn rows_of(&self, table: &'static str, batch: &RecordBatch, meter: &mut Meter) -> Result<Rows> {
        let unfit = |what: &str| Error::new(ErrorKind::Invalid, format!("a batch for table {table} {what}"));
        let schema = self.schemas.get(table).ok_or_else(|| unfit("has no table to go to"))?;
        let (ours, theirs) = (schema.fields().iter(), batch.schema_ref().fields().iter());
        if !ours.map(|field| field.name()).eq(theirs.map(|field| field.name())) {
            return Err(unfit("has other columns than the table"));
        }
        let batch = RecordBatch::try_new(Arc::clone(schema), batch.columns().to_vec())
            .map_err(|error| unfit("does not fit the table's schema").with_source(error))?;
        // The schema has made sure of the type, and that no row lacks its date.
        let column = batch.column_by_name(DATE).ok_or_else(|| unfit("has no date column"))?;
        let mut dates = column.as_primitive::<Date32Type>().values().to_vec();
        dates.dedup();
        dates.sort_unstable();
        dates.dedup();
        Ok(Rows { table, bytes: meter.batch_bytes(&batch), batch, dates })
    }
}
