//! "Did you mean": the nearest of a set of names by edit distance.

/// Names longer than this are not compared; the cost is quadratic.
const MAX_COMPARED: usize = 64;

/// The candidate closest to `wrong`, or none when nothing is near enough to be a slip of the keyboard.
pub(crate) fn closest<'a>(wrong: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let wrong: Vec<char> = wrong.chars().flat_map(char::to_lowercase).take(MAX_COMPARED + 1).collect();
    if wrong.is_empty() || wrong.len() > MAX_COMPARED {
        return None;
    }
    let limit = (wrong.len() / 3).clamp(1, 3);
    candidates
        .filter(|candidate| candidate.len() <= MAX_COMPARED)
        .map(|candidate| (distance(&wrong, &candidate.to_lowercase().chars().collect::<Vec<_>>()), candidate))
        .filter(|(distance, _)| *distance > 0 && *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Edit distance in which swapping two neighbours counts as one.
fn distance(left: &[char], right: &[char]) -> usize {
    let mut before = vec![0; right.len() + 1];
    let mut previous: Vec<usize> = (0..=right.len()).collect();
    for (row, from) in left.iter().enumerate() {
        let mut current = vec![row + 1];
        for (column, to) in right.iter().enumerate() {
            let mut best = (previous[column] + usize::from(from != to))
                .min(previous[column + 1] + 1)
                .min(current[column] + 1);
            if row > 0 && column > 0 && *from == right[column - 1] && left[row - 1] == *to {
                best = best.min(before[column - 1] + 1);
            }
            current.push(best);
        }
        before = std::mem::replace(&mut previous, current);
    }
    previous[right.len()]
}

#[cfg(test)]
mod tests {
    use super::closest;

    #[test]
    fn a_near_name_is_found_and_a_far_one_is_not() {
        let names = ["RUN", "COPY", "ENTRYPOINT"];
        assert_eq!(closest("COPPY", names.into_iter()), Some("COPY"));
        assert_eq!(closest("ENTYRPOINT", names.into_iter()), Some("ENTRYPOINT"));
        assert_eq!(closest("FLY", names.into_iter()), None);
        assert_eq!(closest("", names.into_iter()), None);
    }
}
