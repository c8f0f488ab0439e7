//! What a file is when it is not a Dolmen file, in words that help the person who has it.

use super::rules::HDR_2;
use crate::error::Error;

/// How many bytes of the beginning of a file a diagnosis looks at.
pub const DIAGNOSIS_LEN: usize = 512;

/// The error for a file that does not begin with the magic, from its first bytes.
#[cold]
pub(crate) fn not_dolmen(start: &[u8]) -> Error {
    let Diagnosis { what, advice, other_format } = diagnose(start);
    HDR_2.broken(what).with_offset(0).with_advice(advice).with_other_format(other_format)
}

const FETCH_LFS: &str = "the real file is stored elsewhere; run `git lfs pull`";
const FETCH_AGAIN: &str = "download it again, and check the address and that you are logged in";
const READ_ELSEWHERE: &str = "this release does not read that format";
const FEATURE_OFF: &str = "this program was built without the feature that reads that format";
const CONVERT_NPZ: &str =
    "if it is a .npz, `dolmen convert` makes a Dolmen file of it; if it should be a .pt, it was damaged";
const SAVE_AGAIN: &str = "load it with PyTorch and save it again";
const DECOMPRESS: &str = "decompress it first";
const OTHER: &str = "check that this is the file you meant";

/// What a file is, what to do about it, and whether it may be a good file of another format.
struct Diagnosis {
    what: &'static str,
    advice: &'static str,
    other_format: bool,
}

fn wrong(what: &'static str, advice: &'static str) -> Diagnosis {
    Diagnosis { what, advice, other_format: false }
}

fn other(what: &'static str, advice: &'static str) -> Diagnosis {
    Diagnosis { what, advice, other_format: true }
}

/// Whether text begins as JSON does that a server sends: an object with a key, or an array of such.
fn is_json(text: &[u8]) -> bool {
    let Some((first, rest)) = text.split_first() else { return false };
    let next = rest.trim_ascii_start().first();
    match first {
        b'{' => matches!(next, Some(b'"' | b'}')),
        b'[' => matches!(next, Some(b'{' | b'"' | b']')),
        _ => false,
    }
}

fn begins(text: &[u8], prefix: &[u8]) -> bool {
    text.get(..prefix.len()).is_some_and(|t| t.eq_ignore_ascii_case(prefix))
}

fn is_lfs_pointer(start: &[u8]) -> bool {
    start.starts_with(b"version https://git-lfs.github.com/spec/")
}

fn is_html(text: &[u8]) -> bool {
    begins(text, b"<!doctype html") || begins(text, b"<html") || begins(text, b"<head")
}

/// Whether a file that begins so only stands where another should be: it is empty, a git-LFS pointer, or a web page.
pub fn is_placeholder(start: &[u8]) -> bool {
    start.is_empty() || is_lfs_pointer(start) || is_html(start.trim_ascii_start())
}

fn diagnose(start: &[u8]) -> Diagnosis {
    if start.is_empty() {
        return wrong(
            "the file is empty",
            "the program that wrote it stopped too early, or the disk was full; save it again",
        );
    }
    let text = start.trim_ascii_start();
    if is_lfs_pointer(start) {
        return wrong("this is a git-LFS pointer, not the file itself", FETCH_LFS);
    }
    if is_html(text) {
        return wrong(
            "this is an HTML page, not a checkpoint: a download got a web page instead of the file",
            FETCH_AGAIN,
        );
    }
    if begins(text, b"<?xml") || begins(text, b"<error>") {
        return wrong("this is an XML document, most likely a server's error message, not a checkpoint", FETCH_AGAIN);
    }
    if start.starts_with(b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19\x2e") {
        return other("this is a PyTorch checkpoint of the old kind, from before version 1.6", FEATURE_OFF);
    }
    if start.get(257..262) == Some(b"ustar") {
        return other("this is a tar archive, as PyTorch wrote checkpoints before version 0.1.10", SAVE_AGAIN);
    }
    if start.starts_with(b"PYTORCH1") {
        return other("this is a PyTorch checkpoint of a preview from before version 1.0", SAVE_AGAIN);
    }
    if start.get(4..8) == Some(b"PTMF") {
        return other("this is a PyTorch module for mobile devices, in a FlatBuffer", READ_ELSEWHERE);
    }
    if matches!(start, [0x80, 2..=5, ..]) {
        return other(
            "this is a Python pickle, not a checkpoint; it was not opened, for a pickle can run any code",
            READ_ELSEWHERE,
        );
    }
    if start.starts_with(b"PK\x03\x04") || start.starts_with(b"PK\x05\x06") {
        return other("this is a ZIP archive, and no PyTorch checkpoint was found in it", CONVERT_NPZ);
    }
    if start.starts_with(b"\x93NUMPY") {
        return other("this is a NumPy .npy file", FEATURE_OFF);
    }
    if is_safetensors(start) {
        return other("this is a safetensors file", FEATURE_OFF);
    }
    if start.starts_with(b"GGUF") {
        return other("this is a GGUF file", READ_ELSEWHERE);
    }
    if start.starts_with(b"\x89HDF\r\n\x1a\n") {
        return other("this is an HDF5 file", READ_ELSEWHERE);
    }
    if start.starts_with(b"\x1f\x8b") || start.starts_with(b"\x28\xb5\x2f\xfd") || start.starts_with(b"\xfd7zXZ\0") {
        return other("this is a compressed file", DECOMPRESS);
    }
    if is_json(text) {
        return wrong("this looks like JSON text, perhaps a server's error message, not a checkpoint", FETCH_AGAIN);
    }
    if start.iter().all(|&byte| byte == 0) {
        return wrong(
            "the file begins with zeros: it was made longer but never written, as after a crash without fsync",
            "restore it from another copy",
        );
    }
    if start.starts_with(b"\x89DOLMEN\r\n") || start.starts_with(b"\x89DOLMEN\r") {
        return wrong(
            "line endings were changed in this file: it went through a transfer in text mode",
            "transfer it again, in binary mode",
        );
    }
    if start.starts_with(b"\x09DOLMEN\n") {
        return wrong("the top bit of the bytes was cleared: the file went through a 7-bit transfer", FETCH_AGAIN);
    }
    wrong("this is not a Dolmen file: it does not begin with the magic bytes 89 44 4F 4C 4D 45 4E 0A", OTHER)
}

/// Whether bytes begin as a safetensors file does: a length, then JSON.
pub(crate) fn is_safetensors(start: &[u8]) -> bool {
    match start.split_first_chunk::<8>() {
        Some((len, rest)) => u64::from_le_bytes(*len) < 1 << 40 && rest.first() == Some(&b'{'),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn common_impostors_get_a_sentence_of_their_own() {
        let mut tar = [0; 512];
        tar[..8].copy_from_slice(b"storages");
        tar[257..262].copy_from_slice(b"ustar");
        let cases: &[(&[u8], &str)] = &[
            (b"", "empty"),
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", "git-LFS pointer"),
            (b"\n<!DOCTYPE html><html>", "HTML page"),
            (b"<?xml version=\"1.0\"?><Error><Code>AccessDenied", "XML"),
            (b"\x80\x02}q\x00.", "Python pickle"),
            (b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19\x2e", "before version 1.6"),
            (b"PK\x03\x04....", "ZIP"),
            (&tar, "tar archive"),
            (b"PYTORCH1....", "preview"),
            (b"\x20\0\0\0PTMF....", "FlatBuffer"),
            (b"\x93NUMPY\x01\x00", ".npy"),
            (b"\x10\0\0\0\0\0\0\0{\"a\":1}", "safetensors"),
            (b"GGUF\x03\0\0\0", "GGUF"),
            (b"\x89HDF\r\n\x1a\n", "HDF5"),
            (b"\x1f\x8b\x08", "compressed"),
            (b"{\"error\":\"not found\"}", "JSON"),
            (b"[package]\nname = 1", "not a Dolmen file"),
            (&[0; 64], "zeros"),
            (b"\x89DOLMEN\r\nxxxx", "line endings"),
            (b"\x09DOLMEN\nxxxx", "7-bit"),
            (b"hello world", "not a Dolmen file"),
        ];
        for (bytes, words) in cases {
            let e = not_dolmen(bytes);
            assert!(e.to_string().contains(words), "{words}: {e}");
            assert_eq!((e.rule(), e.advice().is_some()), (Some("HDR-2"), true));
        }
    }
}
