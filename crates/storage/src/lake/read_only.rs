//! A store at rest.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use object_store::path::Path;
use spanlake_schema::{DEFAULT_TENANT, TABLES, TableSpec};

use super::{TableSource, TableView};
use crate::error::store_error;
use crate::{Result, Store, Table};

/// A store at rest, read without a log: committed rows only.
#[derive(Debug)]
pub struct ReadOnlyLake {
    tenants: BTreeMap<String, BTreeMap<&'static str, Arc<Table>>>,
}

impl ReadOnlyLake {
    /// Opens what tables the store has; writes nothing.
    ///
    /// # Errors
    /// As of the store.
    pub async fn open(store: Store) -> Result<Self> {
        let mut tables = BTreeMap::new();
        for spec in TABLES {
            if let Some(table) = Table::open(&store, DEFAULT_TENANT, spec).await? {
                tables.insert(spec.name, Arc::new(table));
            }
        }
        // Rollups have the columns of their SELECTs.
        let tenant = Path::from(DEFAULT_TENANT);
        let below = store.object_store().list_with_delimiter(Some(&tenant)).await;
        let below = below.map_err(|error| store_error("list", &tenant, error))?;
        for folder in below.common_prefixes {
            let Some(name) = folder.filename().filter(|name| TABLES.iter().all(|spec| spec.name != *name)) else {
                continue;
            };
            if let Some(table) = Table::open_any(&store, DEFAULT_TENANT, name).await? {
                tables.insert(table.spec().name, Arc::new(table));
            }
        }
        Ok(Self { tenants: BTreeMap::from([(DEFAULT_TENANT.to_owned(), tables)]) })
    }
}

#[async_trait]
impl TableSource for ReadOnlyLake {
    fn tables(&self, tenant: &str) -> Vec<&'static TableSpec> {
        self.tenants.get(tenant).map(|tables| tables.values().map(|table| table.spec()).collect()).unwrap_or_default()
    }

    async fn view(&self, tenant: &str, table: &str) -> Result<Option<TableView>> {
        let Some(table) = self.tenants.get(tenant).and_then(|tables| tables.get(table)) else { return Ok(None) };
        let snapshot = table.refresh().await?;
        Ok(Some(TableView { table: Arc::clone(table), snapshot, hot: Vec::new(), spilled: Vec::new() }))
    }
}
