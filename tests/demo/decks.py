"""What the demo's slide decks say: data, laid out by `documents.py`. All companies, people and figures are invented."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Rgb = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Chart:
    """One chart: every series has a value per label."""

    kind: Literal["bar", "line", "pie"]
    title: str
    labels: Sequence[str]
    series: Mapping[str, Sequence[float]]
    unit: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True, slots=True)
class Slide:
    """A title, bullets, and at most one figure: a chart, a table, a drawing (`documents.DRAWINGS`) or a picture (`pictures`)."""

    title: str
    bullets: Sequence[str] = ()
    chart: Chart | None = None
    table: Table | None = None
    draw: str = ""
    picture: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Deck:
    path: str
    title: str
    subtitle: str
    footer: str
    colour: Rgb
    accent: Rgb
    slides: Sequence[Slide]


_QUARTERS = ("Q1", "Q2", "Q3", "Q4")

RESULTS = Deck(
    "talks/q3-2025.pdf",
    "Third quarter 2025",
    "Results for the supervisory board",
    "Northwind Instruments - October 2025",
    (0.09, 0.22, 0.36),
    (0.93, 0.6, 0.2),
    (
        Slide(
            "The quarter in four numbers",
            (
                "Revenue 48.2 million euros, 17 % above last year",
                "Gross margin 61 %, two points better than planned",
                "412 new customers, most of them in Asia",
                "Cash at the end of September: 93 million euros",
            ),
        ),
        Slide(
            "Revenue by quarter",
            chart=Chart(
                "bar", "Revenue per quarter", _QUARTERS,
                {"2023": (31.4, 33.0, 35.2, 38.9), "2024": (36.1, 38.7, 41.2, 45.5), "2025": (42.8, 45.9, 48.2, 51.0)},
                "million euros",
            ),
            note="Q4 2025 is the forecast of September.",
        ),
        Slide(
            "Where revenue comes from",
            ("Sensors carry more than two fifths of the business", "Services grow fastest: plus 31 %", "Licences are stable"),
            chart=Chart("pie", "Revenue by product line, Q3 2025", ("Sensors", "Services", "Licences", "Spare parts"), {"share": (43, 27, 18, 12)}),
        ),
        Slide(
            "Revenue by region",
            table=Table(
                ("Region", "Q3 2024", "Q3 2025", "Change"),
                (
                    ("Europe", "19.8", "21.9", "+11 %"), ("North America", "12.4", "13.6", "+10 %"), ("Asia", "6.1", "9.3", "+52 %"),
                    ("South America", "1.8", "2.0", "+11 %"), ("Africa", "1.1", "1.4", "+27 %"), ("Total", "41.2", "48.2", "+17 %"),
                ),
            ),
            note="Million euros, at constant exchange rates.",
        ),
        Slide(
            "Costs are under control",
            ("Energy fell back to the level of 2022", "Freight is still 12 % dearer than a year ago", "Hiring was slowed in sales, not in development"),
            chart=Chart("bar", "Operating costs", ("Staff", "Material", "Freight", "Energy"), {"Q3 2024": (12.6, 9.1, 2.5, 1.9), "Q3 2025": (13.4, 9.6, 2.8, 1.4)}, "million euros"),
        ),
        Slide(
            "Customers stay longer",
            chart=Chart(
                "line", "Customers who renewed their contract", ("2018", "2019", "2020", "2021", "2022", "2023", "2024", "2025"),
                {"all": (78, 80, 77, 82, 85, 87, 88, 91), "with service plan": (84, 86, 85, 89, 92, 93, 95, 96)}, "percent",
            ),
        ),
        Slide(
            "Risks we watch",
            (
                "One supplier makes 70 % of our ceramic housings",
                "The dollar: one cent costs 0.3 million a quarter",
                "A new competitor sells 20 % below our price in Korea",
                "New rules for batteries from February 2027",
            ),
        ),
        Slide(
            "Outlook",
            ("Forecast for the year: 188 million euros", "Second factory opens in Porto in March", "Dividend proposal: 1.10 euros a share"),
            chart=Chart("line", "Revenue of the year", ("2021", "2022", "2023", "2024", "2025", "2026"), {"revenue": (108, 122, 138, 162, 188, 214)}, "million euros"),
        ),
    ),
)  # fmt: skip

ROADMAP = Deck(
    "talks/roadmap_v3.pdf",
    "Product roadmap",
    "What we build in the next twelve months, and what we leave out",
    "Papertrail team - planning week",
    (0.2, 0.36, 0.3),
    (0.95, 0.76, 0.25),
    (
        Slide("What users told us", ("\"I cannot find last year's receipts\"", "\"The app forgets my place\"", "\"It must work on the train\"", "312 interviews and 4,100 support tickets")),
        Slide("Timeline", draw="timeline"),
        Slide(
            "What matters most",
            ("Asked 1,240 users to give away ten points", "Offline use wins in every group"),
            chart=Chart("bar", "Mean points per wish", ("Offline", "Search", "Speed", "Sharing", "Themes"), {"points": (3.4, 2.6, 1.9, 1.4, 0.7)}, "points of ten"),
        ),
        Slide(
            "Milestones and owners",
            table=Table(
                ("Milestone", "Owner", "Due"),
                (("Photo search", "Ines", "31 March"), ("Mobile beta", "Tomasz", "15 May"), ("Offline mode", "Ines", "31 July"), ("Team libraries", "Priya", "30 September"), ("Public API", "Yuki", "30 November")),
            ),
        ),
        Slide("How it fits together", ("Everything runs on the device", "Sync is a file copy", "No account is needed"), picture="whiteboard"),
        Slide(
            "What we will not do",
            ("No advertising, no tracking", "No web version before 2027", "No own camera app: the system's is better", "No chat"),
        ),
        Slide(
            "Are we fast enough?",
            chart=Chart("line", "Features finished, cumulative", ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug"), {"plan": (3, 7, 11, 15, 19, 23, 27, 31), "done": (2, 5, 10, 13, 19, 24, 26, 29)}, "features"),
        ),
    ),
)  # fmt: skip

ONBOARDING = Deck(
    "talks/first_week.pdf",
    "Welcome aboard!",
    "Your first week: people, tools, habits",
    "People and culture",
    (0.42, 0.2, 0.42),
    (0.98, 0.66, 0.45),
    (
        Slide("Your first day", ("09:00 breakfast with your team on the second floor", "10:00 laptop, badge and keys at the IT desk", "13:00 lunch: your buddy invites you", "15:00 a walk through the building, fire exits included")),
        Slide("Who is who", draw="organisation"),
        Slide(
            "Your laptop",
            ("Choose a passphrase of five words", "Turn on disk encryption", "Backups run every night", "A terminal is a friend, not an enemy"),
            picture="terminal_screenshot",
        ),
        Slide(
            "Working hours and holidays",
            table=Table(("What", "How much"), (("Hours a week", "38"), ("Core time", "10:00 - 15:00"), ("Days of leave", "30"), ("Work from home", "up to 3 days"), ("Parental leave", "ask us early"))),
        ),
        Slide("Meetings with manners", ("No agenda, no meeting", "Decisions are written down the same day", "Cameras are optional, kindness is not", "Wednesday afternoon is free of meetings")),
        Slide(
            "Safety first",
            ("Emergency number inside: 112 from any phone", "Meeting point: the car park behind house B", "Report near misses; nobody is blamed"),
            chart=Chart("bar", "Accidents at work", ("2020", "2021", "2022", "2023", "2024"), {"accidents": (9, 7, 6, 3, 2)}, "per year"),
        ),
        Slide("Coffee, tea and dogs", ("The machine on floor three makes the best espresso", "Descale it when it asks for it, please", "Dogs are welcome on Fridays"), picture="coffee_cup"),
    ),
)  # fmt: skip

CLIMATE = Deck(
    "talks/lecture-04.pdf",
    "Why the climate warms",
    "Introduction to climate science, lecture 4",
    "Department of Geography",
    (0.1, 0.35, 0.42),
    (0.9, 0.42, 0.25),
    (
        Slide("Weather is not climate", ("Weather is what you get today", "Climate is what thirty years of weather look like", "A cold week does not disprove a warm decade", "Climate is measured as means, extremes and how often they occur")),
        Slide("The greenhouse effect", ("Sunlight passes through the air", "The ground sends heat upwards", "Carbon dioxide and methane send part of it back", "Without it the mean would be 18 degrees below zero"), draw="greenhouse"),
        Slide(
            "Carbon dioxide since 1960",
            chart=Chart(
                "line", "Carbon dioxide in the air (rounded)", ("1960", "1965", "1970", "1975", "1980", "1985", "1990", "1995", "2000", "2005", "2010", "2015", "2020"),
                {"CO2": (317, 320, 326, 331, 339, 346, 354, 361, 369, 380, 390, 401, 414)}, "parts per million",
            ),
        ),
        Slide(
            "Temperature follows",
            ("Land warms faster than the sea", "The Arctic warms fastest", "Nights warm more than days"),
            chart=Chart("line", "Difference from 1951 - 1980 (rounded)", ("1960", "1970", "1980", "1990", "2000", "2010", "2020"), {"global mean": (0.0, 0.0, 0.26, 0.45, 0.39, 0.72, 1.01)}, "degrees Celsius"),
        ),
        Slide(
            "Who emits what",
            chart=Chart("pie", "Greenhouse gases by sector (classroom figures)", ("Energy", "Industry", "Farming and forests", "Transport", "Buildings"), {"share": (34, 24, 22, 14, 6)}),
        ),
        Slide("Ice and sea level", ("Glaciers in the Alps have lost half of their volume", "Warm water takes more room than cold water", "The sea rises by about four millimetres a year"), picture="snowy_mountains"),
        Slide(
            "Rain in a warmer world",
            ("One degree more: the air holds 7 % more water", "Dry regions become drier", "Heavy rain becomes heavier"),
            chart=Chart("bar", "Days of heavy rain at our station", ("1970s", "1980s", "1990s", "2000s", "2010s"), {"days": (11, 12, 14, 15, 19)}, "days per decade, above 40 mm"),
        ),
        Slide("What can be done", ("Wind and solar power are the cheapest new sources", "Insulate houses before heating them", "Eat less beef, waste less food", "Protect forests and bogs: they store carbon")),
    ),
)  # fmt: skip

NETWORKS = Deck(
    "talks/ml-intro.pdf",
    "Neural networks from scratch",
    "A first lecture for people who can multiply",
    "Summer school - machine learning",
    (0.16, 0.18, 0.4),
    (0.3, 0.75, 0.75),
    (
        Slide("What a neuron computes", ("It multiplies every input by a weight", "It adds them up, and a bias", "It keeps the sum if positive, else gives zero", "That is all: no magic happens in one neuron")),
        Slide("Layers", ("Neurons in a layer see the same inputs", "Outputs of one layer feed the next", "More layers: more abstract features"), draw="network"),
        Slide("Gradient descent", ("Measure how wrong the output is: the loss", "Step downhill, against the gradient", "The learning rate is the length of the step"), draw="valley"),
        Slide(
            "Training and validation loss",
            ("After epoch six the network learns by heart", "Stop there: early stopping"),
            chart=Chart("line", "Loss per epoch", ("1", "2", "3", "4", "5", "6", "7", "8", "9", "10"), {"training": (2.1, 1.5, 1.1, 0.85, 0.68, 0.55, 0.45, 0.37, 0.3, 0.25), "validation": (2.2, 1.6, 1.25, 1.05, 0.97, 0.94, 0.96, 1.02, 1.1, 1.19)}, "cross entropy"),
        ),
        Slide("Confusion matrix", ("Rows are the truth, columns the answer", "Dogs and cats are mixed up most often", "Fish are easy"), draw="confusion"),
        Slide(
            "How big are they?",
            table=Table(("Network", "Layers", "Weights"), (("Ours, today", "3", "12 thousand"), ("Digit reader", "5", "60 thousand"), ("Photo classifier", "50", "26 million"), ("Language model", "96", "175 billion"))),
        ),
        Slide("Homework", ("Write forward and backward passes without a library", "Train on the handwritten digits", "Draw the loss curve and explain its shape", "Hand in by Friday noon")),
    ),
)  # fmt: skip

DECKS = (RESULTS, ROADMAP, ONBOARDING, CLIMATE, NETWORKS)
