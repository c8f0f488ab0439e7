#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    dolmen_fuzz::write_model(data);
});
