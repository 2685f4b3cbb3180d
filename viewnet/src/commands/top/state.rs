//! What the user has chosen.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

/// Characters at most in a filter.
const MAX_FILTER: usize = 32;

/// What is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Tab {
    #[default]
    Ports,
    Switches,
    Stacks,
    Views,
}

impl Tab {
    pub(super) const ALL: [Self; 4] = [Self::Ports, Self::Switches, Self::Stacks, Self::Views];

    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Ports => "Ports",
            Self::Switches => "Switches",
            Self::Stacks => "Stacks",
            Self::Views => "Views",
        }
    }

    /// Columns of its table.
    fn columns(self) -> usize {
        match self {
            Self::Ports | Self::Switches | Self::Stacks => 8,
            Self::Views => 6,
        }
    }
}

/// The choices.
#[derive(Debug, Clone, Default)]
pub(super) struct State {
    tab: Tab,
    sort: [usize; Tab::ALL.len()],
    is_reversed: [bool; Tab::ALL.len()],
    filter: String,
    is_typing: bool,
    is_paused: bool,
    has_help: bool,
    /// The first row on the screen.
    pub(super) top: usize,
    /// Rows that the screen has, as it was last drawn.
    pub(super) height: usize,
}

impl State {
    pub(super) fn tab(&self) -> Tab {
        self.tab
    }

    pub(super) fn sort(&self) -> (usize, bool) {
        (self.sort[self.tab as usize], self.is_reversed[self.tab as usize])
    }

    pub(super) fn filter(&self) -> &str {
        &self.filter
    }

    pub(super) fn is_typing(&self) -> bool {
        self.is_typing
    }

    pub(super) fn is_paused(&self) -> bool {
        self.is_paused
    }

    pub(super) fn has_help(&self) -> bool {
        self.has_help
    }

    /// A key was pressed; true if it is the end.
    pub(super) fn handle_key(&mut self, key: KeyEvent) -> bool {
        if key.kind == KeyEventKind::Release {
            return false;
        }
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return matches!(key.code, KeyCode::Char('c' | 'd'));
        }
        if self.is_typing {
            self.type_key(key.code);
            return false;
        }
        if std::mem::take(&mut self.has_help) {
            return false;
        }
        let at = self.tab as usize;
        match key.code {
            KeyCode::Char('q') => return true,
            KeyCode::Esc if self.filter.is_empty() => return true,
            KeyCode::Esc => self.filter.clear(),
            KeyCode::Char('?' | 'h') => self.has_help = true,
            KeyCode::Char('p' | ' ') => self.is_paused = !self.is_paused,
            KeyCode::Char('/') => self.is_typing = true,
            KeyCode::Char('r') => self.is_reversed[at] = !self.is_reversed[at],
            KeyCode::Char('s' | '>') | KeyCode::Right => self.sort_by(1),
            KeyCode::Char('S' | '<') | KeyCode::Left => self.sort_by(self.tab.columns() - 1),
            KeyCode::Tab => self.show(Tab::ALL[(at + 1) % Tab::ALL.len()]),
            KeyCode::BackTab => self.show(Tab::ALL[(at + Tab::ALL.len() - 1) % Tab::ALL.len()]),
            KeyCode::Char(digit @ '1'..='4') => self.show(Tab::ALL[digit as usize - '1' as usize]),
            KeyCode::Up | KeyCode::Char('k') => self.top = self.top.saturating_sub(1),
            // The screen knows how far down there is something.
            KeyCode::Down | KeyCode::Char('j') => self.top += 1,
            KeyCode::PageUp => self.top = self.top.saturating_sub(self.height.max(1)),
            KeyCode::PageDown => self.top += self.height.max(1),
            KeyCode::Home => self.top = 0,
            KeyCode::End => self.top = usize::MAX / 2,
            _ => {}
        }
        false
    }

    fn show(&mut self, tab: Tab) {
        (self.tab, self.top) = (tab, 0);
    }

    fn sort_by(&mut self, step: usize) {
        let sort = &mut self.sort[self.tab as usize];
        *sort = (*sort + step) % self.tab.columns();
    }

    fn type_key(&mut self, code: KeyCode) {
        match code {
            KeyCode::Enter => self.is_typing = false,
            KeyCode::Esc => (self.is_typing, self.filter) = (false, String::new()),
            KeyCode::Backspace => drop(self.filter.pop()),
            KeyCode::Char(c) if self.filter.len() < MAX_FILTER && !c.is_control() => self.filter.push(c),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn press(state: &mut State, code: KeyCode) -> bool {
        state.handle_key(KeyEvent::new(code, KeyModifiers::NONE))
    }

    #[test]
    fn keys() {
        let mut state = State::default();
        "/qp".chars().for_each(|c| assert!(!press(&mut state, KeyCode::Char(c)), "typed, not obeyed"));
        press(&mut state, KeyCode::Enter);
        assert_eq!((state.filter(), state.is_paused()), ("qp", false));
        press(&mut state, KeyCode::Tab);
        press(&mut state, KeyCode::Char('S'));
        assert_eq!((state.tab(), state.sort()), (Tab::Switches, (7, false)));
        press(&mut state, KeyCode::Char('1'));
        assert_eq!(state.sort(), (0, false), "each tab has its own order");
        press(&mut state, KeyCode::Char('?'));
        assert!(!press(&mut state, KeyCode::Char('q')), "leaves the help only");
        assert!(!press(&mut state, KeyCode::Esc), "clears the filter");
        assert!(press(&mut state, KeyCode::Esc));
        assert!(state.handle_key(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)));
    }

    #[test]
    fn every_column_can_be_sorted_by() {
        for tab in Tab::ALL {
            let sample = super::super::sample::Sample {
                at: std::time::Instant::now(),
                switches: Vec::new(),
                stacks: Vec::new(),
                views: Vec::new(),
            };
            let table = super::super::table::Table::of(tab, &sample, None);
            assert_eq!(table.columns.len(), tab.columns());
        }
    }
}
