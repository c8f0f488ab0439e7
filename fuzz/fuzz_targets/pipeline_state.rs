#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    dolmen_fuzz::pipeline_state(data);
});
