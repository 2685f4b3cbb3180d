//! The packet filter of a stack of either kind, for whoever asks on its path.

use msocket_proto::proto::FilterChange;

use super::smol::Smol;
use super::{Answer, Backing, not_owner};

/// Changes it, if so said, and shows it.
pub(super) fn answer(
    backing: &mut Backing,
    smol: &mut Smol,
    owner: bool,
    change: Option<&FilterChange>,
) -> Answer {
    if change.is_some() && !owner {
        return Answer::Refused(not_owner("change its filter"));
    }
    let listing = match backing {
        Backing::Kernel(stack) => stack.filter(change),
        Backing::Smol(key) => smol.filter(*key, change),
    };
    listing.map_or_else(Answer::Refused, |listing| Answer::of(&listing))
}
