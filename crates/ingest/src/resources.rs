//! The frame that all signals share: resources, their scopes, and the items of each scope.

use crate::origin::Origin;
use crate::room::Room;
use crate::value::ValueWriter;
use crate::wire::{Reader, WireError};

/// The names of a signal's messages, for errors.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Names {
    pub(crate) request: &'static str,
    pub(crate) resource: &'static str,
    pub(crate) scope: &'static str,
}

/// What becomes of the items of a request.
pub(crate) trait Items<'a> {
    /// Renders the attributes of resources and scopes, within the room that is left.
    fn writer(&mut self) -> (&mut ValueWriter, &mut Room);

    /// The items of another scope follow.
    fn scope(&mut self, origin: &Origin<'a>);

    /// Takes one item. `parent` is the reader that has just read its bytes.
    fn item(&mut self, origin: &Origin<'a>, parent: &Reader<'a>, bytes: &'a [u8]) -> Result<(), WireError>;

    /// All items of a resource have been taken: counts them for the ledger.
    fn end_resource(&mut self, origin: &Origin<'a>);
}

/// Hands every item of a request to `items`, with where it comes from.
pub(crate) fn walk<'a>(body: &'a [u8], names: Names, items: &mut impl Items<'a>) -> Result<(), WireError> {
    let mut reader = Reader::new(body, names.request);
    while let Some((field, wire)) = reader.next()? {
        if field == 1 {
            resource(&reader, reader.bytes(wire)?, names, items)?;
        }
    }
    Ok(())
}

/// Fields may stand in any order: the resource is read before the items it belongs to.
fn resource<'a>(
    parent: &Reader<'a>,
    bytes: &'a [u8],
    names: Names,
    items: &mut impl Items<'a>,
) -> Result<(), WireError> {
    let mut origin = Origin::default();
    let mut reader = parent.inner(bytes, names.resource);
    while let Some((field, wire)) = reader.next()? {
        match field {
            1 => {
                let (writer, room) = items.writer();
                origin.read_resource(&reader, reader.bytes(wire)?, writer, room)?;
            }
            3 => origin.resource_schema_url = reader.bytes(wire)?,
            _ => {}
        }
    }
    origin.end_resource(items.writer().0);
    let mut reader = parent.inner(bytes, names.resource);
    while let Some((field, wire)) = reader.next()? {
        if field == 2 {
            scope(&mut origin, &reader, reader.bytes(wire)?, names, items)?;
        }
    }
    items.end_resource(&origin);
    Ok(())
}

fn scope<'a>(
    origin: &mut Origin<'a>,
    parent: &Reader<'a>,
    bytes: &'a [u8],
    names: Names,
    items: &mut impl Items<'a>,
) -> Result<(), WireError> {
    origin.clear_scope();
    let mut reader = parent.inner(bytes, names.scope);
    while let Some((field, wire)) = reader.next()? {
        match field {
            1 => {
                let (writer, room) = items.writer();
                origin.read_scope(&reader, reader.bytes(wire)?, writer, room)?;
            }
            3 => origin.scope_schema_url = reader.bytes(wire)?,
            _ => {}
        }
    }
    origin.end_scope(items.writer().0);
    items.scope(origin);
    let mut reader = parent.inner(bytes, names.scope);
    while let Some((field, wire)) = reader.next()? {
        if field == 2 {
            items.item(origin, &reader, reader.bytes(wire)?)?;
        }
    }
    Ok(())
}
