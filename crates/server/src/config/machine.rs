//! What the machine has: the defaults of every bound come from here.

use std::path::Path;

/// Memory assumed where the operating system does not tell.
const UNKNOWN_MEMORY_BYTES: u64 = 4 << 30;

/// Free disk space assumed where the operating system does not tell.
const UNKNOWN_DISK_BYTES: u64 = 16 << 30;

/// Open files assumed where the operating system does not tell: the usual soft limit.
const UNKNOWN_OPEN_FILES: usize = 1024;

/// What the machine has for this process.
#[derive(Clone, Copy, Debug)]
pub struct Machine {
    /// Memory in bytes: the smaller of what is installed and what the control group allows.
    pub memory_bytes: u64,
    /// Processors this process may use.
    pub cores: usize,
    /// Files and connections this process may have open at once.
    pub open_files: usize,
    /// Bytes free on the disk that holds, or will hold, a path.
    pub disk_free_bytes: fn(&Path) -> u64,
}

impl Machine {
    /// Asks the operating system.
    pub fn detect() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).ok();
        let installed = read("/proc/meminfo").and_then(|text| parse_meminfo(&text));
        let group = read("/proc/self/cgroup").and_then(|text| cgroup_limit(&text, &read));
        let memory_bytes = [installed, group].into_iter().flatten().min().unwrap_or(UNKNOWN_MEMORY_BYTES);
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let open_files =
            read("/proc/self/limits").and_then(|text| parse_open_files(&text)).unwrap_or(UNKNOWN_OPEN_FILES);
        Self { memory_bytes, cores, open_files, disk_free_bytes }
    }
}

fn disk_free_bytes(path: &Path) -> u64 {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    absolute
        .ancestors()
        .find_map(|ancestor| rustix::fs::statvfs(ancestor).ok())
        .map_or(UNKNOWN_DISK_BYTES, |disk| disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// Resident memory of this process in bytes, from `/proc/self/status`.
pub(crate) fn resident_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    kib_field(&text, "VmRSS:")
}

/// The soft limit; `unlimited` is read as none.
fn parse_open_files(text: &str) -> Option<usize> {
    let rest = text.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    rest.split_whitespace().next()?.parse().ok()
}

fn parse_meminfo(text: &str) -> Option<u64> {
    kib_field(text, "MemTotal:")
}

fn kib_field(text: &str, name: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The tightest limit on the way from this process's control group up to the root, for version 2 (`0::/a/b`) and for
/// version 1 (`5:memory:/a/b`). Inside a container the root itself carries the limit.
fn cgroup_limit(membership: &str, read: &dyn Fn(&str) -> Option<String>) -> Option<u64> {
    let mut limits = Vec::new();
    for line in membership.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else { continue };
        let (root, file) = if controllers.is_empty() {
            ("/sys/fs/cgroup", "memory.max")
        } else if controllers.split(',').any(|name| name == "memory") {
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
        } else {
            continue;
        };
        for group in Path::new(path).ancestors() {
            let group = group.to_string_lossy();
            let text = read(&format!("{root}{}/{file}", group.trim_end_matches('/')));
            // Version 2 writes `max` for no limit; version 1 a number near the maximum, larger than any machine.
            limits.extend(text.and_then(|text| text.trim().parse::<u64>().ok()));
        }
    }
    limits.into_iter().min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_installed_memory() {
        let text = "MemTotal:       24567890 kB\nMemFree:          123456 kB\n";
        assert_eq!(parse_meminfo(text), Some(24_567_890 * 1024));
        assert_eq!(parse_meminfo("MemFree: 1 kB\n"), None);
    }

    #[test]
    fn reads_the_soft_limit_of_open_files() {
        let text = "Limit   Soft Limit  Hard Limit  Units\nMax open files            1024                 524288               files\n";
        assert_eq!(parse_open_files(text), Some(1024));
        assert_eq!(parse_open_files("Max open files unlimited unlimited files"), None);
    }

    #[test]
    fn takes_the_tightest_group_limit() {
        let read = |path: &str| match path {
            "/sys/fs/cgroup/memory.max" => Some("max\n".to_owned()),
            "/sys/fs/cgroup/a/memory.max" => Some("1048576\n".to_owned()),
            "/sys/fs/cgroup/a/b/memory.max" => Some("2097152\n".to_owned()),
            "/sys/fs/cgroup/memory/c/memory.limit_in_bytes" => Some("4096\n".to_owned()),
            _ => None,
        };
        assert_eq!(cgroup_limit("0::/a/b\n", &read), Some(1_048_576));
        assert_eq!(cgroup_limit("0::/\n", &read), None);
        assert_eq!(cgroup_limit("4:cpu:/c\n5:memory:/c\n", &read), Some(4096));
    }

    #[test]
    fn this_machine_has_something() {
        let machine = Machine::detect();
        assert!(machine.memory_bytes > 0 && machine.cores > 0, "{machine:?}");
        assert!(disk_free_bytes(Path::new("/nowhere/at/all")) > 0);
        assert!(resident_bytes().is_none_or(|bytes| bytes > 0));
    }
}
