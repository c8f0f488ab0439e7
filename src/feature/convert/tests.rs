use super::*;
use crate::format::dtype::Element;
use std::cmp::Ordering;

fn converted<S: Element, T: Element>(from: &[S]) -> Vec<T> {
    let conversion = Conversion::new(S::DTYPE, T::DTYPE).unwrap().unwrap();
    let mut to = vec![0u8; from.len() * size_of::<T>()];
    conversion.convert(bytemuck::cast_slice(from), &mut to).unwrap();
    to.chunks(size_of::<T>()).map(bytemuck::checked::pod_read_unaligned).collect()
}

/// Random numbers: splitmix64.
fn random(seed: u64) -> impl Iterator<Item = u64> {
    let mut state = seed;
    std::iter::repeat_with(move || {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    })
}

/// What a 16-bit float is, from the definition of IEEE 754 alone: a list of all its values.
struct Oracle {
    /// Those from 0 up; the index is the bits. The last one stands for infinity: where the next value would be.
    values: Vec<f64>,
}

impl Oracle {
    fn new(exponent_bits: u32) -> Oracle {
        let mantissa_bits = 15 - exponent_bits;
        let bias = (1 << (exponent_bits - 1)) - 1;
        let value = |bits: u32| {
            let (exponent, mantissa) = (bits >> mantissa_bits, bits & ((1 << mantissa_bits) - 1));
            let significand = if exponent == 0 { mantissa } else { mantissa + (1 << mantissa_bits) };
            f64::from(significand) * 2f64.powi(exponent.max(1) as i32 - bias - mantissa_bits as i32)
        };
        let infinity = ((1 << exponent_bits) - 1) << mantissa_bits;
        Oracle { values: (0..=infinity).map(value).collect() }
    }

    fn infinity(&self) -> u16 {
        u16::try_from(self.values.len() - 1).unwrap()
    }

    /// Halfway from each value to the next: exact, as an f64 has bits to spare.
    fn ties(&self) -> impl Iterator<Item = f64> {
        self.values.windows(2).map(|pair| (pair[0] + pair[1]) / 2.0)
    }

    /// The bits of a number that is not NaN, which is compared with whatever it is given.
    fn round(&self, negative: bool, size: impl Fn(f64) -> Ordering) -> u16 {
        let above = self.values.partition_point(|&value| size(value).is_ge());
        let bits = match self.values.get(above) {
            None => above - 1,
            Some(&next) => match size((self.values[above - 1] + next) / 2.0) {
                Ordering::Less => above - 1,
                Ordering::Greater => above,
                Ordering::Equal => above - 1 + (above - 1) % 2,
            },
        };
        u16::try_from(bits).unwrap() | (u16::from(negative) << 15)
    }

    fn round_f64(&self, number: f64) -> u16 {
        self.round(number.is_sign_negative(), |value| number.abs().partial_cmp(&value).unwrap())
    }

    fn round_integer(&self, number: i128) -> u16 {
        let size = number.unsigned_abs();
        self.round(number < 0, |value| {
            size.cmp(&(value.trunc() as u128)).then(if value.fract() > 0.0 { Ordering::Less } else { Ordering::Equal })
        })
    }
}

fn f16_oracle() -> Oracle {
    Oracle::new(5)
}

fn bf16_oracle() -> Oracle {
    Oracle::new(8)
}

#[test]
fn every_16_bit_float_becomes_its_value() {
    let bits: Vec<u16> = (0..=u16::MAX).collect();
    let (f16s, bf16s): (&[f16], &[bf16]) = (bytemuck::cast_slice(&bits), bytemuck::cast_slice(&bits));
    let check = |oracle: Oracle, single: Vec<f32>, double: Vec<f64>| {
        for (&bits, (single, double)) in bits.iter().zip(single.into_iter().zip(double)) {
            let size = bits & 0x7FFF;
            assert_eq!(single.is_nan(), size > oracle.infinity(), "{bits:04x}");
            assert_eq!((single.is_nan(), single.is_sign_negative()), (double.is_nan(), bits > 0x7FFF), "{bits:04x}");
            if size == oracle.infinity() {
                assert_eq!((single.abs(), double.abs()), (f32::INFINITY, f64::INFINITY));
            } else if let Some(&value) = oracle.values.get(usize::from(size)) {
                let value = if bits > 0x7FFF { -value } else { value };
                assert_eq!(
                    (f64::from(single).to_bits(), double.to_bits()),
                    (value.to_bits(), value.to_bits()),
                    "{bits:04x}"
                );
            }
        }
    };
    check(f16_oracle(), converted(f16s), converted(f16s));
    check(bf16_oracle(), converted(bf16s), converted(bf16s));
}

#[test]
fn nans_become_quiet_and_keep_their_sign_and_upper_bits() {
    let bits: Vec<u16> = (0..=u16::MAX).collect();
    let bf16s: &[bf16] = bytemuck::cast_slice(&bits);
    for (from, to) in bf16s.iter().zip(converted::<bf16, f32>(bf16s)).filter(|(from, _)| from.is_nan()) {
        assert_eq!(to.to_bits(), (u32::from(from.to_bits()) << 16) | 0x0040_0000);
    }
    let f16s: &[f16] = bytemuck::cast_slice(&bits);
    for (from, to) in f16s.iter().zip(converted::<f16, f32>(f16s)).filter(|(from, _)| from.is_nan()) {
        let (sign, payload) = (u32::from(from.to_bits() >> 15) << 31, u32::from(from.to_bits() & 0x3FF) << 13);
        assert_eq!(to.to_bits(), sign | 0x7FC0_0000 | payload);
    }
    // One whose payload is in the lower bits alone would become an infinity if it were cut off.
    let nans = [0x7F80_0001, 0xFF80_0001, 0x7FFF_FFFF, 0xFFFF_FFFF, 0x7FA0_1234].map(f32::from_bits);
    let to_bf16: Vec<u16> = converted::<f32, bf16>(&nans).into_iter().map(bf16::to_bits).collect();
    assert_eq!(to_bf16, [0x7FC0, 0xFFC0, 0x7FFF, 0xFFFF, 0x7FE0]);
    let to_f16: Vec<u16> = converted::<f32, f16>(&nans).into_iter().map(f16::to_bits).collect();
    assert_eq!(to_f16, [0x7E00, 0xFE00, 0x7FFF, 0xFFFF, 0x7F00]);
    let nans = [0x7FF0_0000_0000_0001, 0xFFFF_FFFF_FFFF_FFFF, f64::NAN.to_bits()].map(f64::from_bits);
    assert!(converted::<f64, f32>(&nans).into_iter().all(f32::is_nan));
    assert!(converted::<f64, f16>(&nans).into_iter().all(f16::is_nan));
    assert!(converted::<f64, bf16>(&nans).into_iter().all(bf16::is_nan));
}

/// Every tie and what lies closest to it on both sides, and random bits.
#[test]
fn floats_are_rounded_once_to_the_nearest_even() {
    let (f16_oracle, bf16_oracle) = (f16_oracle(), bf16_oracle());
    let ties = f16_oracle.ties().chain(bf16_oracle.ties());
    let mut doubles: Vec<f64> = ties.flat_map(|tie| [tie.next_down(), tie, tie.next_up()]).collect();
    doubles.extend(f16_oracle.values.iter().chain(&bf16_oracle.values).flat_map(|&v| [v.next_up(), v, v.next_down()]));
    doubles.extend([0.0, f64::from_bits(1), f64::MIN_POSITIVE, f64::MAX, f64::INFINITY, f64::from(f32::MAX)]);
    doubles.extend([f64::from(f32::MAX).next_up(), f64::from(f32::from_bits(1)), 2f64.powi(-150), 2f64.powi(-151)]);
    doubles.extend(random(1).take(200_000).map(f64::from_bits).filter(|number| !number.is_nan()));
    // Random numbers that an f16 has exponents for, with few bits or many.
    doubles.extend(random(2).take(200_000).map(|bits| {
        let exponent = 2f64.powi((bits >> 58) as i32 - 40);
        (1.0 + (bits & (u64::MAX >> (bits % 40 + 12))) as f64 / 2f64.powi(52)) * exponent
    }));
    doubles.extend(doubles.clone().iter().map(|number| -number));
    for (number, (half, brain)) in
        doubles.iter().zip(converted::<_, f16>(&doubles).into_iter().zip(converted::<_, bf16>(&doubles)))
    {
        assert_eq!(half.to_bits(), f16_oracle.round_f64(*number), "{number:e} ({:x}) to f16", number.to_bits());
        assert_eq!(brain.to_bits(), bf16_oracle.round_f64(*number), "{number:e} ({:x}) to bf16", number.to_bits());
    }

    let mut singles: Vec<f32> = doubles.iter().map(|&number| number as f32).collect();
    singles.extend(singles.clone().iter().flat_map(|number| [number.next_up(), number.next_down()]));
    singles.extend(random(3).take(500_000).map(|bits| f32::from_bits(bits as u32)).filter(|number| !number.is_nan()));
    for (&number, (half, brain)) in
        singles.iter().zip(converted::<_, f16>(&singles).into_iter().zip(converted::<_, bf16>(&singles)))
    {
        assert_eq!(half.to_bits(), f16_oracle.round_f64(f64::from(number)), "{number:e} to f16");
        assert_eq!(brain.to_bits(), bf16_oracle.round_f64(f64::from(number)), "{number:e} to bf16");
    }
    assert_eq!(converted::<f64, f32>(&[1.0 + 2f64.powi(-24), 1e300, 1e-40]), [1.0, f32::INFINITY, 1e-40]);
}

#[test]
fn each_16_bit_float_becomes_the_nearest_of_the_other() {
    let bits: Vec<u16> = (0..=u16::MAX).collect();
    let (f16s, bf16s): (&[f16], &[bf16]) = (bytemuck::cast_slice(&bits), bytemuck::cast_slice(&bits));
    let (f16_oracle, bf16_oracle) = (f16_oracle(), bf16_oracle());
    for (from, to) in f16s.iter().zip(converted::<f16, bf16>(f16s)) {
        assert_eq!(from.is_nan(), to.is_nan(), "{from:?}");
        assert!(from.is_nan() || to.to_bits() == bf16_oracle.round_f64(from.to_f64()), "{from:?}");
    }
    for (from, to) in bf16s.iter().zip(converted::<bf16, f16>(bf16s)) {
        assert_eq!(from.is_nan(), to.is_nan(), "{from:?}");
        assert!(from.is_nan() || to.to_bits() == f16_oracle.round_f64(from.to_f64()), "{from:?}");
    }
}

/// Integers at and beside every tie, and random ones.
#[test]
fn integers_are_rounded_once_to_the_nearest_even() {
    let (f16_oracle, bf16_oracle) = (f16_oracle(), bf16_oracle());
    let mut numbers: Vec<i128> = f16_oracle.ties().chain(bf16_oracle.ties()).map(|tie| tie as i128).collect();
    numbers.retain(|&number| number <= i128::from(u64::MAX));
    numbers.extend((0..64).map(|power| 1i128 << power).chain(0..70_000));
    numbers.extend(random(4).take(100_000).map(|bits| i128::from(bits >> (bits % 64))));
    numbers = numbers.iter().flat_map(|number| (-2..=2).map(move |by| number + by)).collect();
    numbers.extend(numbers.clone().iter().map(|number| -number));

    fn check<S: Element + TryFrom<i128> + Into<i128>>(numbers: &[i128], f16_oracle: &Oracle, bf16_oracle: &Oracle) {
        let from: Vec<S> = numbers.iter().filter_map(|&number| S::try_from(number).ok()).collect();
        assert!(from.len() > 200);
        let (halves, brains) = (converted::<S, f16>(&from), converted::<S, bf16>(&from));
        let (singles, doubles) = (converted::<S, f32>(&from), converted::<S, f64>(&from));
        for (i, &number) in from.iter().enumerate() {
            let number: i128 = number.into();
            assert_eq!(halves[i].to_bits(), f16_oracle.round_integer(number), "{number} of {} to f16", S::DTYPE);
            assert_eq!(brains[i].to_bits(), bf16_oracle.round_integer(number), "{number} of {} to bf16", S::DTYPE);
            assert_eq!((singles[i], doubles[i]), (number as f32, number as f64), "{number} of {}", S::DTYPE);
        }
    }
    check::<u8>(&numbers, &f16_oracle, &bf16_oracle);
    check::<u16>(&numbers, &f16_oracle, &bf16_oracle);
    check::<u32>(&numbers, &f16_oracle, &bf16_oracle);
    check::<u64>(&numbers, &f16_oracle, &bf16_oracle);
    check::<i8>(&numbers, &f16_oracle, &bf16_oracle);
    check::<i16>(&numbers, &f16_oracle, &bf16_oracle);
    check::<i32>(&numbers, &f16_oracle, &bf16_oracle);
    check::<i64>(&numbers, &f16_oracle, &bf16_oracle);
}

#[test]
fn every_byte_but_0_is_true() {
    let conversion = Conversion::new(DType::Bool, DType::F32).unwrap().unwrap();
    let mut to = [0f32; 4];
    conversion.convert(&[0, 1, 2, 255], bytemuck::cast_slice_mut(&mut to)).unwrap();
    assert_eq!(to, [0.0, 1.0, 1.0, 1.0]);
    assert_eq!(converted::<bool, f16>(&[true, false]), [f16::ONE, f16::ZERO]);
    assert_eq!(converted::<bool, bf16>(&[true, false]), [bf16::ONE, bf16::ZERO]);
    assert_eq!(converted::<bool, f64>(&[true, false]), [1.0, 0.0]);
}

const SOURCES: [DType; 13] = [
    DType::Bool,
    DType::U8,
    DType::U16,
    DType::U32,
    DType::U64,
    DType::I8,
    DType::I16,
    DType::I32,
    DType::I64,
    DType::F16,
    DType::BF16,
    DType::F32,
    DType::F64,
];
const TARGETS: [DType; 4] = [DType::F16, DType::BF16, DType::F32, DType::F64];

/// All pairs, at lengths around those of a vector and of a stage.
#[test]
fn neither_alignment_nor_length_changes_a_result() {
    let (f16_len, most) = (2, STAGE_LEN * 2 + 5);
    let random: Vec<u64> = random(5).take(most + 1).collect();
    let bytes: &[u8] = bytemuck::cast_slice(&random);
    for conversion in SOURCES.iter().flat_map(|&from| TARGETS.map(|to| Conversion::new(from, to).unwrap())) {
        let Some(conversion) = conversion else { continue };
        let (from_size, to_size) = (size(conversion.from).unwrap(), size(conversion.to).unwrap());
        for count in [0, 1, 2, 3, 7, 8, 9, 31, 33, STAGE_LEN - 1, STAGE_LEN, STAGE_LEN + 1, most] {
            for (from_by, to_by) in [(0, 0), (1, 0), (0, 1), (1, 3), (f16_len, f16_len)] {
                let from = &bytes[from_by..from_by + count * from_size];
                let mut to = vec![0u8; count * to_size + 8];
                let range = to_by..to_by + count * to_size;
                conversion.convert(from, &mut to[range.clone()]).unwrap();
                for (i, one) in from.chunks(from_size).enumerate() {
                    let mut alone = [0u64; 1];
                    let mut aligned = [0u64; 1];
                    bytemuck::cast_slice_mut(&mut aligned)[..from_size].copy_from_slice(one);
                    let alone: &mut [u8] = bytemuck::cast_slice_mut(&mut alone);
                    let aligned: &[u8] = bytemuck::cast_slice(&aligned);
                    conversion.convert(&aligned[..from_size], &mut alone[..to_size]).unwrap();
                    let at = range.start + i * to_size;
                    assert_eq!(to[at..at + to_size], alone[..to_size], "{conversion:?} of {count}, number {i}");
                }
                assert!(to[range.end..].iter().chain(&to[..range.start]).all(|&byte| byte == 0), "{conversion:?}");
            }
        }
    }
}

#[test]
fn wrong_lengths_are_refused() {
    let conversion = Conversion::new(DType::F32, DType::BF16).unwrap().unwrap();
    for (from_len, to_len) in [(8, 2), (8, 6), (7, 4), (9, 4), (0, 2), (4, 0), (3, 0), (1, 0)] {
        let e = conversion.convert(&vec![0; from_len], &mut vec![0; to_len]).unwrap_err();
        assert_eq!(e.kind(), crate::ErrorKind::InvalidInput);
        let lens = (from_len.to_string(), to_len.to_string());
        assert!(e.to_string().contains(&lens.0) && e.to_string().contains(&lens.1), "{e}");
    }
    conversion.convert(&[], &mut []).unwrap();
}

#[test]
fn what_is_not_converted_is_named() {
    for &from in DType::ALL.iter().chain(&[DType::Opaque { bits: 16 }, DType::Unknown { code: 0x9001, bits: 32 }]) {
        assert!(Conversion::new(from, from).unwrap().is_none());
        for &to in DType::ALL.iter().filter(|&&to| to != from) {
            let known = SOURCES.contains(&from) && TARGETS.contains(&to);
            match Conversion::new(from, to) {
                Ok(conversion) => {
                    let conversion = conversion.unwrap();
                    assert!(known, "{conversion:?}");
                    assert_eq!((conversion.from, conversion.to), (from, to));
                }
                Err(e) => {
                    assert!(!known, "{e}");
                    assert_eq!(e.kind(), crate::ErrorKind::InvalidInput);
                    assert!(e.to_string().contains(&format!("dtype {from} cannot be converted to {to}")), "{e}");
                }
            }
        }
    }
}
