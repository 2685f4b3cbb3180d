//! The logger: warnings on standard error, more if `VIEWNET_LOG` says so (`error`, `warn`, `info`, `debug`,
//! `trace`). Background processes have no standard error; run a switch with `--foreground` to see its.

use log::{LevelFilter, Log, Metadata, Record};

struct Stderr;

impl Log for Stderr {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            eprintln!("viewnet: {}: {}", record.level().as_str().to_lowercase(), record.args());
        }
    }

    fn flush(&self) {}
}

/// Installs it.
pub(crate) fn install(wanted: Option<&str>) {
    let level = wanted.and_then(|word| word.parse().ok()).unwrap_or(LevelFilter::Warn);
    if log::set_logger(&Stderr).is_ok() {
        log::set_max_level(level);
    }
}
