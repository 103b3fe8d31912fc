//! Winograd's algorithm along one axis: `M` outputs of a convolution with 3 taps from `P = M + 2`
//! inputs with `P` multiplications: `output = A (G weights * B input)`.
//!
//! Formulae: Lavin and Gray, "Fast algorithms for convolutional neural networks" (2016), from the
//! points at which the polynomials are evaluated: 0, 1, -1 and infinity for 2 outputs; for 4
//! outputs 0, +-a, +-1/a and infinity with a = sqrt(1/2), which lose a third of the digits that
//! the usual 0, +-1, +-2 lose (measured in three dimensions: 1.2e-6 relative against 3.5e-6).

use super::super::simd::Simd;

const A: f64 = std::f64::consts::FRAC_1_SQRT_2;
const B: f64 = std::f64::consts::SQRT_2;
const THIRD: f64 = 1.0 / 3.0;

/// The transforms along one axis: `P` inputs, as many points, `M` outputs.
pub(in super::super) trait Axis<const M: usize, const P: usize>: Copy {
    /// From inputs to points.
    ///
    /// # Safety
    /// The processor has `S`.
    unsafe fn input<S: Simd>(x: [S::Vector; P]) -> [S::Vector; P];

    /// From products to outputs.
    ///
    /// # Safety
    /// The processor has `S`.
    unsafe fn output<S: Simd>(y: [S::Vector; P]) -> [S::Vector; M];

    /// From the weights of 3 taps to points; [`Length::weights`] in single precision.
    ///
    /// # Safety
    /// The processor has `S`.
    unsafe fn weights<S: Simd>(w: [S::Vector; 3]) -> [S::Vector; P];
}

/// An axis along which the kernel has one tap: nothing happens.
#[derive(Clone, Copy)]
pub(in super::super) struct One;

/// 2 outputs from 4 inputs.
#[derive(Clone, Copy)]
pub(in super::super) struct Two;

/// 4 outputs from 6 inputs.
#[derive(Clone, Copy)]
pub(in super::super) struct Four;

impl Axis<1, 1> for One {
    #[inline(always)]
    unsafe fn input<S: Simd>(x: [S::Vector; 1]) -> [S::Vector; 1] {
        x
    }

    #[inline(always)]
    unsafe fn output<S: Simd>(y: [S::Vector; 1]) -> [S::Vector; 1] {
        y
    }

    #[inline(always)]
    unsafe fn weights<S: Simd>([w0, ..]: [S::Vector; 3]) -> [S::Vector; 1] {
        [w0]
    }
}

impl Axis<2, 4> for Two {
    #[inline(always)]
    unsafe fn input<S: Simd>([x0, x1, x2, x3]: [S::Vector; 4]) -> [S::Vector; 4] {
        // SAFETY: as the caller promises.
        unsafe { [S::sub(x0, x2), S::add(x1, x2), S::sub(x2, x1), S::sub(x3, x1)] }
    }

    #[inline(always)]
    unsafe fn output<S: Simd>([y0, y1, y2, y3]: [S::Vector; 4]) -> [S::Vector; 2] {
        // SAFETY: as the caller promises.
        unsafe { [S::add(y0, S::add(y1, y2)), S::add(S::sub(y1, y2), y3)] }
    }

    #[inline(always)]
    unsafe fn weights<S: Simd>([w0, w1, w2]: [S::Vector; 3]) -> [S::Vector; 4] {
        // SAFETY: as the caller promises.
        unsafe {
            let half = S::splat(0.5);
            let even = S::mul(S::add(w0, w2), half);
            let odd = S::mul(w1, half);
            [w0, S::add(even, odd), S::sub(even, odd), w2]
        }
    }
}

impl Axis<4, 6> for Four {
    #[inline(always)]
    unsafe fn input<S: Simd>([x0, x1, x2, x3, x4, x5]: [S::Vector; 6]) -> [S::Vector; 6] {
        // SAFETY: as the caller promises.
        unsafe {
            let constant = |value: f64| S::splat(value as f32);
            let middle = constant(-2.5);
            let (even_a, odd_a) =
                (S::multiply_add(x2, constant(-2.0), x4), S::multiply_add(x1, constant(-2.0), x3));
            let (even_b, odd_b) =
                (S::multiply_add(x2, constant(-0.5), x4), S::multiply_add(x1, constant(-0.5), x3));
            [
                S::multiply_add(x2, middle, S::add(x0, x4)),
                S::multiply_add(odd_a, constant(A), even_a),
                S::multiply_add(odd_a, constant(-A), even_a),
                S::multiply_add(odd_b, constant(B), even_b),
                S::multiply_add(odd_b, constant(-B), even_b),
                S::multiply_add(x3, middle, S::add(x1, x5)),
            ]
        }
    }

    #[inline(always)]
    unsafe fn output<S: Simd>([y0, y1, y2, y3, y4, y5]: [S::Vector; 6]) -> [S::Vector; 4] {
        // SAFETY: as the caller promises.
        unsafe {
            let constant = |value: f64| S::splat(value as f32);
            let (sum_a, difference_a) = (S::add(y1, y2), S::sub(y1, y2));
            let (sum_b, difference_b) = (S::add(y3, y4), S::sub(y3, y4));
            let scaled = |a: f64, of_a, b: f64, of_b| {
                S::multiply_add(of_a, constant(a), S::mul(of_b, constant(b)))
            };
            [
                S::add(y0, S::add(sum_a, sum_b)),
                scaled(A, difference_a, B, difference_b),
                scaled(A * A, sum_a, B * B, sum_b),
                S::add(scaled(A * A * A, difference_a, B * B * B, difference_b), y5),
            ]
        }
    }

    #[inline(always)]
    unsafe fn weights<S: Simd>([w0, w1, w2]: [S::Vector; 3]) -> [S::Vector; 6] {
        // SAFETY: as the caller promises.
        unsafe {
            let constant = |value: f64| S::splat(value as f32);
            let third = S::mul(w2, constant(THIRD));
            let even_a = S::sub(S::mul(w0, constant(-2.0 * THIRD)), third);
            let even_b = S::multiply_add(w0, constant(THIRD / 2.0), third);
            let (odd_a, odd_b) = (constant(-2.0 * THIRD * A), constant(THIRD / 2.0 * B));
            [
                w0,
                S::multiply_add(w1, odd_a, even_a),
                S::sub(even_a, S::mul(w1, odd_a)),
                S::multiply_add(w1, odd_b, even_b),
                S::sub(even_b, S::mul(w1, odd_b)),
                w2,
            ]
        }
    }
}

/// How many outputs a tile has along an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Length {
    One,
    Two,
    Four,
}

impl Length {
    /// Outputs of a tile.
    pub(in super::super) fn outputs(self) -> usize {
        match self {
            Self::One => 1,
            Self::Two => 2,
            Self::Four => 4,
        }
    }

    /// Inputs of a tile, and products.
    pub(in super::super) fn points(self) -> usize {
        match self {
            Self::One => 1,
            Self::Two => 4,
            Self::Four => 6,
        }
    }

    /// Taps of the kernel.
    pub(in super::super) fn taps(self) -> usize {
        self.points() + 1 - self.outputs()
    }

    /// What each tap adds to `point`, zeros after the last.
    pub(in super::super) fn factors(self, point: usize) -> [f32; 3] {
        let of_point = self.weights()[point];
        std::array::from_fn(|tap| of_point.get(tap).map_or(0.0, |&factor| factor as f32))
    }

    /// `G`: what each tap adds to each point, `[point][tap]`.
    pub(in super::super) fn weights(self) -> &'static [&'static [f64]] {
        // Of a point p: (1, p, p^2) over the product of its distances from the other points.
        match self {
            Self::One => &[&[1.0]],
            Self::Two => &[&[1.0, 0.0, 0.0], &[0.5, 0.5, 0.5], &[0.5, -0.5, 0.5], &[0.0, 0.0, 1.0]],
            Self::Four => &[
                &[1.0, 0.0, 0.0],
                &[-2.0 * THIRD, -2.0 * THIRD * A, -THIRD],
                &[-2.0 * THIRD, 2.0 * THIRD * A, -THIRD],
                &[THIRD / 2.0, THIRD / 2.0 * B, THIRD],
                &[THIRD / 2.0, -THIRD / 2.0 * B, THIRD],
                &[0.0, 0.0, 1.0],
            ],
        }
    }
}
