//! Calls that are made to fail.

use std::ffi::c_int;
use std::sync::Mutex;

use crate::world::{CallResult, lock};

struct Faults {
    calls: u64,
    plan: Option<Plan>,
    fired: Option<(&'static str, u64)>,
    read_environment: bool,
}

struct Plan {
    function: Option<String>,
    /// So many more calls of it, this one included.
    left: u64,
    error: c_int,
    mode: c_int,
}

static FAULTS: Mutex<Faults> = Mutex::new(Faults { calls: 0, plan: None, fired: None, read_environment: true });

pub fn plan(function: Option<String>, nth: u64, error: c_int, mode: c_int) {
    let mut faults = lock(&FAULTS);
    faults.read_environment = false;
    if nth > 0 {
        faults.fired = None;
    }
    faults.plan = (nth > 0).then_some(Plan { function, left: nth, error, mode });
}

pub fn calls() -> u64 {
    lock(&FAULTS).calls
}

pub fn fired() -> Option<(&'static str, u64)> {
    lock(&FAULTS).fired
}

impl Plan {
    fn from_environment() -> Option<Plan> {
        let text = std::env::var("SIMULATED_CUDA_FAIL").ok()?;
        let mut fields = text.split(':');
        let function = Some(fields.next()?.to_owned()).filter(|name| name != "*");
        let (left, error) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        let mode = match fields.next() {
            Some("after") => 1,
            Some("on") => 2,
            _ => 0,
        };
        Some(Plan { function, left, error, mode })
    }
}

/// Does what was called, unless it is to fail.
pub fn call(name: &'static str, work: impl FnOnce() -> CallResult) -> c_int {
    let planned = {
        let mut faults = lock(&FAULTS);
        if std::mem::take(&mut faults.read_environment) {
            faults.plan = Plan::from_environment();
        }
        faults.calls += 1;
        let calls = faults.calls;
        let mut planned = None;
        if let Some(plan) = faults.plan.as_mut().filter(|plan| plan.function.as_deref().is_none_or(|f| f == name)) {
            plan.left = plan.left.saturating_sub(1);
            if plan.left == 0 {
                planned = Some((plan.error, plan.mode));
                if plan.mode != 2 {
                    faults.plan = None;
                }
                faults.fired.get_or_insert((name, calls));
            }
        }
        planned
    };
    match planned {
        None => work().err().unwrap_or(0),
        Some((error, 1)) => {
            let _ = work();
            error
        }
        Some((error, _)) => error,
    }
}
