#![no_main]

use dolmen_fuzz::lifecycle;

libfuzzer_sys::fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    lifecycle::mutate_log(data, size, max_size, seed, &mut libfuzzer_sys::fuzzer_mutate)
});

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    dolmen_fuzz::failed_log(data);
});
