#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| tribes_fuzz::session_message(data));

#[cfg(not(fuzzing))]
fn main() {}
