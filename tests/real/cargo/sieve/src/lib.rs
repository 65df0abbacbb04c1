//! The sieve of Eratosthenes.

/// The primes below `limit`.
pub fn primes(limit: usize) -> Vec<usize> {
    let mut is_prime = vec![true; limit];
    (2..limit)
        .filter(|&n| {
            if is_prime[n] {
                (n * n..limit).step_by(n).for_each(|multiple| is_prime[multiple] = false);
            }
            is_prime[n]
        })
        .collect()
}

#[test]
fn small_ones() {
    assert_eq!(primes(12), [2, 3, 5, 7, 11]);
}
