//! Where spans, log records and points come from: their resource and scope, rendered once and copied to each of them.

use crate::columns::TextMap;
use crate::roles::name_hash;
use crate::room::{ITEM_BYTES, Room};
use crate::span_columns::{Columns, Table, slot_in};
use crate::value::{Attribute, Value, ValueWriter};
use crate::walk::write_attribute;
use crate::wire::{Reader, WireError};

/// The resource and scope of the items that follow.
#[derive(Debug, Default)]
pub(crate) struct Origin<'a> {
    pub(crate) resource_schema_url: &'a [u8],
    pub(crate) scope_schema_url: &'a [u8],
    resource: Option<Attributes>,
    service_name: Option<Vec<u8>>,
    environment: Option<&'a [u8]>,
    environment_is_current: bool,
    entity_refs: Vec<EntityRef>,
    resource_bytes: usize,
    scope_bytes: usize,
    scope: Option<Attributes>,
    scope_name: &'a [u8],
    scope_hash: u64,
    scope_version: &'a [u8],
}

/// Rendered attributes.
#[derive(Debug, Default)]
struct Attributes {
    map: TextMap,
    symbols: Vec<u8>,
    dropped: u32,
}

impl Attributes {
    fn end(&mut self, writer: &mut ValueWriter) {
        self.map.close(0);
        writer.finish_types(&mut self.symbols);
    }

    fn copy_bytes(&self) -> usize {
        self.map.copy_bytes() + self.symbols.len()
    }
}

#[derive(Debug, Default, serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct EntityRef {
    schema_url: String,
    r#type: String,
    id_keys: Vec<String>,
    description_keys: Vec<String>,
}

impl EntityRef {
    /// About the JSON that each row gets of it.
    fn copy_bytes(&self) -> usize {
        const NAMES_BYTES: usize = 64;
        let keys: usize = self.id_keys.iter().chain(&self.description_keys).map(|key| key.len() + 3).sum();
        NAMES_BYTES + self.schema_url.len() + self.r#type.len() + keys
    }
}

impl<'a> Origin<'a> {
    /// Reads a `Resource` message; a second one adds to the first, as protobuf merges messages.
    pub(crate) fn read_resource(
        &mut self,
        parent: &Reader<'a>,
        bytes: &'a [u8],
        writer: &mut ValueWriter,
        room: &mut Room,
    ) -> Result<(), WireError> {
        let mut reader = parent.inner(bytes, "Resource");
        let mut resource = self.resource.take().unwrap_or_default();
        while let Some((field, wire)) = reader.next()? {
            room.take(ITEM_BYTES, &reader)?;
            match field {
                1 => {
                    let attribute = Attribute::read(&reader, reader.bytes(wire)?)?;
                    self.note(attribute);
                    write_attribute(writer, &reader, attribute, &mut resource.map, &mut resource.symbols)?;
                }
                2 => resource.dropped = reader.integer(wire)? as u32,
                3 => self.entity_refs.push(read_entity_ref(reader.inner(reader.bytes(wire)?, "EntityRef"), room)?),
                _ => {}
            }
        }
        self.resource = Some(resource);
        Ok(())
    }

    /// Takes the facts that have columns of their own. The first of equal keys counts.
    fn note(&mut self, attribute: Attribute<'a>) {
        match (attribute.key, attribute.value) {
            (b"service.name", Value::String(name)) if self.service_name.is_none() => {
                self.service_name = Some(name.to_vec());
            }
            (b"service.name", Value::Int(number)) if self.service_name.is_none() => {
                self.service_name = Some(number.to_string().into_bytes());
            }
            (b"deployment.environment.name", Value::String(name)) if !self.environment_is_current => {
                self.environment = Some(name);
                self.environment_is_current = true;
            }
            (b"deployment.environment", Value::String(name)) if self.environment.is_none() => {
                self.environment = Some(name);
            }
            _ => {}
        }
    }

    /// As it stands in the column `service_name`.
    pub(crate) fn service_name(&self) -> Option<&[u8]> {
        self.service_name.as_deref()
    }

    /// Ends the resource: its items follow.
    pub(crate) fn end_resource(&mut self, writer: &mut ValueWriter) {
        let name_bytes = self.service_name.as_ref().map_or(0, Vec::len) + self.environment.map_or(0, <[u8]>::len);
        let entity_bytes: usize = self.entity_refs.iter().map(EntityRef::copy_bytes).sum();
        self.resource_bytes = name_bytes + entity_bytes + self.resource_schema_url.len();
        if let Some(resource) = &mut self.resource {
            resource.end(writer);
            self.resource_bytes += resource.copy_bytes();
        }
    }

    /// Forgets the scope before the next one.
    pub(crate) fn clear_scope(&mut self) {
        self.scope = None;
        self.scope_name = &[];
        self.scope_version = &[];
        self.scope_schema_url = &[];
    }

    /// The scope's name; empty where it has none.
    pub(crate) fn scope_name(&self) -> &'a [u8] {
        self.scope_name
    }

    /// Equal for scopes of one name.
    pub(crate) fn scope_hash(&self) -> u64 {
        self.scope_hash
    }

    /// The scope's version; empty where it has none.
    pub(crate) fn scope_version(&self) -> &'a [u8] {
        self.scope_version
    }

    /// Reads an `InstrumentationScope` message.
    pub(crate) fn read_scope(
        &mut self,
        parent: &Reader<'a>,
        bytes: &'a [u8],
        writer: &mut ValueWriter,
        room: &mut Room,
    ) -> Result<(), WireError> {
        let mut reader = parent.inner(bytes, "InstrumentationScope");
        let mut scope = self.scope.take().unwrap_or_default();
        while let Some((field, wire)) = reader.next()? {
            room.take(ITEM_BYTES, &reader)?;
            match field {
                1 => self.scope_name = reader.bytes(wire)?,
                2 => self.scope_version = reader.bytes(wire)?,
                3 => {
                    let attribute = Attribute::read(&reader, reader.bytes(wire)?)?;
                    write_attribute(writer, &reader, attribute, &mut scope.map, &mut scope.symbols)?;
                }
                4 => scope.dropped = reader.integer(wire)? as u32,
                _ => {}
            }
        }
        self.scope = Some(scope);
        Ok(())
    }

    /// Ends the scope: its items follow.
    pub(crate) fn end_scope(&mut self, writer: &mut ValueWriter) {
        self.scope_hash = name_hash(self.scope_name);
        self.scope_bytes = self.scope_name.len() + self.scope_version.len() + self.scope_schema_url.len();
        if let Some(scope) = &mut self.scope {
            scope.end(writer);
            self.scope_bytes += scope.copy_bytes();
        }
    }

    /// The attributes of the resource, as their columns have them.
    pub(crate) fn resource_entries(&self) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
        self.resource.iter().flat_map(|resource| resource.map.entries_from(0))
    }

    /// The attributes of the scope, as their columns have them.
    pub(crate) fn scope_entries(&self) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
        self.scope.iter().flat_map(|scope| scope.map.entries_from(0))
    }

    /// The name and the version of the scope.
    pub(crate) fn scope_identity(&self) -> (&'a [u8], &'a [u8]) {
        (self.scope_name, self.scope_version)
    }

    /// What each row takes of its resource and scope.
    pub(crate) fn copy_bytes(&self) -> usize {
        self.resource_bytes + self.scope_bytes
    }

    /// Writes the columns of resource and scope for the current row.
    pub(crate) fn write<T: Table>(&self, columns: &mut Columns<T>) {
        let row = columns.rows;
        let mut text = |at: usize, value: &[u8]| {
            if !value.is_empty() {
                columns.texts[at].set(row, value);
            }
        };
        text(const { slot_in(T::SPEC.columns, "resource_schema_url") }, self.resource_schema_url);
        text(const { slot_in(T::SPEC.columns, "scope_schema_url") }, self.scope_schema_url);
        text(const { slot_in(T::SPEC.columns, "scope_version") }, self.scope_version);
        if let Some(name) = &self.service_name {
            columns.texts[const { slot_in(T::SPEC.columns, "service_name") }].set(row, name);
        }
        if let Some(name) = self.environment {
            columns.texts[const { slot_in(T::SPEC.columns, "environment") }].set(row, name);
        }
        if !self.entity_refs.is_empty() {
            columns.texts[const { slot_in(T::SPEC.columns, "resource_entity_refs") }].set_with(row, |out| {
                // Writing strings into a vector cannot fail.
                let _ = serde_json::to_writer(out, &self.entity_refs);
            });
        }
        let (mut resource_dropped, mut scope_dropped) = (0, 0);
        if let Some(resource) = &self.resource {
            columns.maps[const { slot_in(T::SPEC.columns, "resource_attributes") }].set_copy(row, &resource.map);
            columns.texts[const { slot_in(T::SPEC.columns, "resource_attribute_types") }].set(row, &resource.symbols);
            resource_dropped = resource.dropped;
        }
        if let Some(scope) = &self.scope {
            columns.texts[const { slot_in(T::SPEC.columns, "scope_name") }].set(row, self.scope_name);
            columns.maps[const { slot_in(T::SPEC.columns, "scope_attributes") }].set_copy(row, &scope.map);
            columns.texts[const { slot_in(T::SPEC.columns, "scope_attribute_types") }].set(row, &scope.symbols);
            scope_dropped = scope.dropped;
        }
        let dropped = [
            (const { slot_in(T::SPEC.columns, "resource_dropped_attributes_count") }, resource_dropped),
            (const { slot_in(T::SPEC.columns, "scope_dropped_attributes_count") }, scope_dropped),
        ];
        for (at, count) in dropped {
            columns.ints[at].set(row, i64::from(count));
        }
    }
}

fn read_entity_ref(mut reader: Reader<'_>, room: &mut Room) -> Result<EntityRef, WireError> {
    let mut entity = EntityRef::default();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    while let Some((field, wire)) = reader.next()? {
        room.take(ITEM_BYTES, &reader)?;
        match field {
            1 => entity.schema_url = text(reader.bytes(wire)?),
            2 => entity.r#type = text(reader.bytes(wire)?),
            3 => entity.id_keys.push(text(reader.bytes(wire)?)),
            4 => entity.description_keys.push(text(reader.bytes(wire)?)),
            _ => {}
        }
    }
    Ok(entity)
}
