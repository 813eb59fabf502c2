//! The bytes of a frame.

use bytes::Bytes;

use crate::{Frame, Position};

pub(super) const FIXED_BYTES: usize = 56;
/// Frames start at multiples of this, so that a search for one need not try each byte.
pub(super) const ALIGNMENT: u64 = 8;
pub(super) const MAGIC: [u8; 4] = *b"SLF1";

/// What seeds the checksums of one segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Salt(u32);

impl Salt {
    pub(super) fn new(writer_id: u128, epoch: u64, sequence: u64) -> Self {
        let mut bytes = [0; 32];
        bytes[..16].copy_from_slice(&writer_id.to_le_bytes());
        bytes[16..24].copy_from_slice(&epoch.to_le_bytes());
        bytes[24..].copy_from_slice(&sequence.to_le_bytes());
        Self(crc32c::crc32c(&bytes))
    }
}

/// The fixed part of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FrameHeader {
    pub(super) body_crc: u32,
    pub(super) payload_bytes: u32,
    pub(super) position: Position,
    /// The last durable position when the frame was written.
    pub(super) durable: Position,
    pub(super) received_unix_nano: u64,
    pub(super) rules_version: u32,
    pub(super) prices_version: u32,
    pub(super) tenant_bytes: u16,
    pub(super) kind: u8,
}

impl FrameHeader {
    /// The header of a frame. The caller has checked that tenant and payload are not too long for it.
    pub(super) fn new(frame: &Frame, payload: &Bytes, position: Position, durable: Position) -> Option<Self> {
        Some(Self {
            body_crc: body_crc(frame.tenant.as_bytes(), payload),
            payload_bytes: u32::try_from(payload.len()).ok()?,
            position,
            durable,
            received_unix_nano: frame.received_unix_nano,
            rules_version: frame.rules_version,
            prices_version: frame.prices_version,
            tenant_bytes: u16::try_from(frame.tenant.len()).ok()?,
            kind: frame.kind,
        })
    }

    /// Says behind the last frame that everything up to a position is durable, where no later frame says so yet. No frame has
    /// its position, 0.
    pub(super) fn mark(durable: Position) -> Self {
        Self {
            body_crc: 0,
            payload_bytes: 0,
            position: 0,
            durable,
            received_unix_nano: 0,
            rules_version: 0,
            prices_version: 0,
            tenant_bytes: 0,
            kind: 0,
        }
    }

    pub(super) fn encode(&self, salt: Salt) -> [u8; FIXED_BYTES] {
        let mut bytes = [0; FIXED_BYTES];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&self.body_crc.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.payload_bytes.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.position.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.durable.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.received_unix_nano.to_le_bytes());
        bytes[40..44].copy_from_slice(&self.rules_version.to_le_bytes());
        bytes[44..48].copy_from_slice(&self.prices_version.to_le_bytes());
        bytes[48..50].copy_from_slice(&self.tenant_bytes.to_le_bytes());
        bytes[50] = self.kind;
        let crc = crc32c::crc32c_append(salt.0, &bytes[8..]);
        bytes[4..8].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// The header in `bytes`, where they are one of this segment.
    pub(super) fn decode(bytes: &[u8], salt: Salt) -> Option<Self> {
        let bytes = bytes.get(..FIXED_BYTES)?;
        if bytes[..4] != MAGIC || crc32c::crc32c_append(salt.0, &bytes[8..]) != u32_at(bytes, 4) {
            return None;
        }
        Some(Self {
            body_crc: u32_at(bytes, 8),
            payload_bytes: u32_at(bytes, 12),
            position: u64_at(bytes, 16),
            durable: u64_at(bytes, 24),
            received_unix_nano: u64_at(bytes, 32),
            rules_version: u32_at(bytes, 40),
            prices_version: u32_at(bytes, 44),
            tenant_bytes: u16::from_le_bytes([bytes[48], bytes[49]]),
            kind: bytes[50],
        })
    }

    /// Bytes of the whole frame, padding included.
    pub(super) fn frame_bytes(&self) -> u64 {
        padded(FIXED_BYTES as u64 + u64::from(self.tenant_bytes) + u64::from(self.payload_bytes))
    }

    /// The frame and its payload, where the body is what was written.
    pub(super) fn read_body(&self, body: &Bytes) -> Option<(Frame, Bytes)> {
        let tenant_end = usize::from(self.tenant_bytes);
        let payload_end = tenant_end + self.payload_bytes as usize;
        let tenant = body.get(..tenant_end)?;
        let payload = body.slice(tenant_end..payload_end.min(body.len()));
        if payload.len() != self.payload_bytes as usize || body_crc(tenant, &payload) != self.body_crc {
            return None;
        }
        let frame = Frame {
            tenant: std::str::from_utf8(tenant).ok()?.to_owned(),
            kind: self.kind,
            received_unix_nano: self.received_unix_nano,
            rules_version: self.rules_version,
            prices_version: self.prices_version,
        };
        Some((frame, payload))
    }
}

fn body_crc(tenant: &[u8], payload: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(tenant), payload)
}

pub(super) fn padded(bytes: u64) -> u64 {
    bytes.next_multiple_of(ALIGNMENT)
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut number = [0; 4];
    number.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(number)
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(number)
}
