//! The `spanlake` binary. All of it but the allocator lies in `crates/server`.

mod allocator;

fn main() -> std::process::ExitCode {
    allocator::keep_freed_memory();
    spanlake_server::main()
}
