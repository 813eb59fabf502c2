//! The allocator, shared by the binary and the benchmarks.
//!
//! Each flush frees tens of megabytes that the next one needs again. mimalloc gives freed memory back to the kernel after a
//! second, and the kernel clears each page anew when it is touched, which costs more than filling it. It does so under load
//! too: what is free at the moment goes, needed soon or not. Keeping it for a minute makes that rare, and still gives it back
//! after a burst.

use std::ffi::{c_int, c_long};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

unsafe extern "C" {
    /// <https://microsoft.github.io/mimalloc/group__options.html>
    fn mi_option_set(option: c_int, value: c_long);
}

/// `mi_option_purge_delay`, in milliseconds.
const PURGE_DELAY: c_int = 15;

/// Keeps freed memory for a minute. To be called once, first thing in `main`.
pub(crate) fn keep_freed_memory() {
    // SAFETY: the function belongs to the allocator linked above; it stores the value of a known option.
    unsafe { mi_option_set(PURGE_DELAY, 60_000) }
}
