//! What `descr` says of the elements.

use crate::error::{Error, ErrorKind, Result, quoted};
use crate::format::dtype::DType;

/// NumPy's name of a kind and size, and the dtype.
const DTYPES: &[(&str, DType)] = &[
    ("|b1", DType::Bool),
    ("|u1", DType::U8),
    ("<u2", DType::U16),
    ("<u4", DType::U32),
    ("<u8", DType::U64),
    ("|i1", DType::I8),
    ("<i2", DType::I16),
    ("<i4", DType::I32),
    ("<i8", DType::I64),
    ("<f2", DType::F16),
    ("<f4", DType::F32),
    ("<f8", DType::F64),
    ("<c8", DType::C64),
    ("<c16", DType::C128),
];

/// NumPy's name of a dtype, if it has one.
pub(super) fn descr_of(dtype: DType) -> Option<&'static str> {
    DTYPES.iter().find(|&&(_, known)| known == dtype).map(|&(name, _)| name)
}

/// What the elements of an array are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Element {
    pub(crate) dtype: DType,
    /// If they are big-endian: the bytes of each number, which are to be reversed.
    pub(crate) swap: Option<usize>,
    /// What they are called once they are little-endian.
    descr: String,
}

impl Element {
    /// What the elements were, if the dtype does not say it.
    pub(crate) fn opaque_descr(&self) -> Option<&str> {
        matches!(self.dtype, DType::Opaque { .. }).then_some(&*self.descr)
    }

    /// Understands a `descr` that is a string.
    pub(super) fn parse(descr: &str) -> Result<Element> {
        let unknown = || {
            let e = Error::new(ErrorKind::UnsupportedVersion, format!("its dtype {} is not supported", quoted(descr)));
            e.with_advice("save it with a dtype of numbers")
        };
        // '=' is the order of the machine that reads; on those that wrote the files there are, that is little-endian.
        let (big, rest) = match descr.strip_prefix('>') {
            Some(rest) => (true, rest),
            None => (false, descr.strip_prefix(['<', '=', '|']).unwrap_or(descr)),
        };
        let mut chars = rest.chars();
        let kind = chars.next().ok_or_else(unknown)?;
        let size = chars.as_str();
        let (size, unit) = match size.split_once('[') {
            Some((size, unit)) if matches!(kind, 'M' | 'm') && unit.ends_with(']') => (size, unit),
            Some(_) => return Err(unknown()),
            None => (size, ""),
        };
        if kind == 'O' {
            let e = Error::new(
                ErrorKind::UnsupportedVersion,
                "it is an array of Python objects: a pickle, which can run any code and was not opened",
            );
            return Err(e.with_advice("save it with a dtype of numbers"));
        }
        if size.is_empty() || !size.bytes().all(|byte| byte.is_ascii_digit()) || size.starts_with('0') {
            return Err(unknown());
        }
        let number: u32 = size.parse().map_err(|_| unknown())?;
        let bytes = number.checked_mul(if kind == 'U' { 4 } else { 1 }).ok_or_else(unknown)?;
        let name = |order: char| {
            let unit = if unit.is_empty() { String::new() } else { format!("[{unit}") };
            format!("{order}{kind}{number}{unit}")
        };
        let descr = name('<');
        let bare = name('|');
        if let Some(&(_, dtype)) = DTYPES.iter().find(|(known, _)| *known == descr || *known == bare) {
            // Each half of a complex number is swapped on its own.
            let unit = if kind == 'c' { bytes.div_euclid(2) } else { bytes };
            let swap = usize::try_from(unit).ok().filter(|&unit| big && unit > 1);
            return Ok(Element { dtype, swap, descr });
        }
        let swap = match kind {
            'S' | 'V' => return Ok(Element { dtype: opaque(bytes).ok_or_else(unknown)?, swap: None, descr: bare }),
            'U' => 4,
            'M' | 'm' if bytes == 8 => 8,
            // Long double, and complex numbers of it: how many of the bits count depends on the machine.
            'f' if !big && matches!(bytes, 12 | 16) => 0,
            'c' if !big && matches!(bytes, 24 | 32) => 0,
            _ => return Err(unknown()),
        };
        Ok(Element { dtype: opaque(bytes).ok_or_else(unknown)?, swap: big.then_some(swap), descr })
    }
}

fn opaque(bytes: u32) -> Option<DType> {
    Some(DType::Opaque { bits: bytes.checked_mul(8)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_the_dtype_that_it_is_written_for() {
        for &(name, dtype) in DTYPES {
            let element = Element::parse(name).unwrap();
            assert_eq!((element.dtype, element.swap, element.opaque_descr()), (dtype, None, None), "{name}");
            assert_eq!(descr_of(dtype), Some(name));
            let big = Element::parse(&name.replace(['<', '|'], ">")).unwrap();
            assert_eq!((big.dtype, big.swap.is_some()), (dtype, dtype.bits() > 8), "{name}");
        }
        assert_eq!(Element::parse(">c16").unwrap().swap, Some(8));
        assert_eq!(Element::parse("=f4").unwrap().dtype, DType::F32);
    }

    #[test]
    fn what_has_no_dtype_is_opaque_or_refused() {
        for (descr, bits, swap, kept) in [
            ("|S10", 80, None, "|S10"),
            ("<U5", 160, None, "<U5"),
            (">U5", 160, Some(4), "<U5"),
            ("|V3", 24, None, "|V3"),
            ("<M8[ns]", 64, None, "<M8[ns]"),
            (">m8[25s]", 64, Some(8), "<m8[25s]"),
            ("<f16", 128, None, "<f16"),
        ] {
            let element = Element::parse(descr).unwrap();
            assert_eq!((element.dtype, element.swap), (DType::Opaque { bits }, swap), "{descr}");
            assert_eq!(element.opaque_descr(), Some(kept));
        }
        for descr in [
            "",
            "<",
            "|O",
            "O",
            "|O8",
            "<U0",
            "|S0",
            "|V",
            "<f3",
            ">f16",
            "<i16",
            "<f4[ns]",
            "<f4x",
            "<f+4",
            "é4",
            "<M8[ns",
            "<U4294967295",
            "<S536870912",
            "<f04",
        ] {
            assert_eq!(Element::parse(descr).unwrap_err().kind(), ErrorKind::UnsupportedVersion, "{descr}");
        }
        assert!(Element::parse("|O").unwrap_err().to_string().contains("pickle"));
    }
}
