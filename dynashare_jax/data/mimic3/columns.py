"""The measurements of the MIMIC-III benchmark, 17, and the 76 columns made of them.

Source: YerevaNN/mimic3-benchmarks: `discretizer_config.json` for measurements, possible and normal
  values and their order, the multitask problem's
  `mult_ts1.0.input_str-previous.start_time-zero.normalizer` for means and standard deviations,
  `hcup_ccs_2015_definitions.yaml` for the phenotypes, `mimic3models/metrics.py` for the classes of
  the remaining stay. Figures and names alone; Harutyunyan et al. 2019 describe them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Channel(NamedTuple):
  """A measurement.

  Attributes:
    name: its column in the files.
    normal: what stands for it before it was measured for the first time.
    values: of a category, in the order of its columns; empty for a number.
    mean: of a number, published.
    std: of a number, published: its standard deviation.
  """

  name: str
  normal: str
  values: tuple[str, ...] = ()
  mean: float = 0.0
  std: float = 1.0


def _category(name: str, normal: str, values: str) -> Channel:
  return Channel(name, normal, tuple(values.split(" | ")))


CHANNELS = (
  _category("Capillary refill rate", "0.0", "0.0 | 1.0"),
  Channel("Diastolic blood pressure", "59.0", (), 61.73746731237323, 221.89647947315552),
  Channel("Fraction inspired oxygen", "0.21", (), 0.2941986945120962, 0.1714931950435367),
  _category(
    "Glascow coma scale eye opening",
    "4 Spontaneously",
    "To Pain | 3 To speech | 1 No Response | 4 Spontaneously | None | To Speech | Spontaneously | "
    "2 To pain",
  ),
  _category(
    "Glascow coma scale motor response",
    "6 Obeys Commands",
    "1 No Response | 3 Abnorm flexion | Abnormal extension | No response | 4 Flex-withdraws | "
    "Localizes Pain | Flex-withdraws | Obeys Commands | Abnormal Flexion | 6 Obeys Commands | "
    "5 Localizes Pain | 2 Abnorm extensn",
  ),
  _category(
    "Glascow coma scale total", "15", "11 | 10 | 13 | 12 | 15 | 14 | 3 | 5 | 4 | 7 | 6 | 9 | 8"
  ),
  _category(
    "Glascow coma scale verbal response",
    "5 Oriented",
    "1 No Response | No Response | Confused | Inappropriate Words | Oriented | No Response-ETT | "
    "5 Oriented | Incomprehensible sounds | 1.0 ET/Trach | 4 Confused | 2 Incomp sounds | "
    "3 Inapprop words",
  ),
  Channel("Glucose", "128.0", (), 140.38699662380586, 1766.7412133808477),
  Channel("Heart Rate", "86", (), 85.53853938464474, 57.11693013941011),
  Channel("Height", "170.0", (), 169.80350234321443, 6.222631784123813),
  Channel("Mean blood pressure", "77.0", (), 79.59640838796953, 148.53013549514117),
  Channel("Oxygen saturation", "98.0", (), 104.98108350952208, 5135.238732591619),
  Channel("Respiratory rate", "19", (), 19.867925156740334, 7.3213287278950965),
  Channel("Systolic blood pressure", "118.0", (), 122.3975667186341, 141.3988560835634),
  Channel("Temperature", "36.6", (), 36.94399135355236, 5.277914736088037),
  Channel("Weight", "81.0", (), 83.76208973419455, 27.233083363220278),
  Channel("pH", "7.4", (), 7.207267791681239, 1.6568268628593597),
)
HEADER = ("Hours", *(channel.name for channel in CHANNELS))

# Places in CHANNELS of numbers and of categories.
NUMBERS = tuple(i for i, c in enumerate(CHANNELS) if not c.values)
CATEGORIES = tuple(i for i, c in enumerate(CHANNELS) if c.values)

# Of the numbers, in their order: mean and standard deviation.
MEANS, STDS = zip(*((CHANNELS[i].mean, CHANNELS[i].std) for i in NUMBERS), strict=True)

_PHENOTYPES = (
  "Acute and unspecified renal failure | Acute cerebrovascular disease | Acute myocardial"
  " infarction | Cardiac dysrhythmias | Chronic kidney disease | Chronic obstructive pulmonary"
  " disease and bronchiectasis | Complications of surgical procedures or medical care | Conduction"
  " disorders | Congestive heart failure; nonhypertensive | Coronary atherosclerosis and other"
  " heart disease | Diabetes mellitus with complications | Diabetes mellitus without complication"
  " | Disorders of lipid metabolism | Essential hypertension | Fluid and electrolyte disorders |"
  " Gastrointestinal hemorrhage | Hypertension with complications and secondary hypertension |"
  " Other liver diseases | Other lower respiratory disease | Other upper respiratory disease |"
  " Pleurisy; pneumothorax; pulmonary collapse | Pneumonia (except that caused by tuberculosis or"
  " sexually transmitted disease) | Respiratory failure; insufficiency; arrest (adult) |"
  " Septicemia (except in labor) | Shock"
)
PHENOTYPES = tuple(_PHENOTYPES.split(" | "))

# Hours that part the classes of the remaining stay: 1 to 8, 14 and 15 days.
# The benchmark does not use the last one, the authors not the one before it.
STAY_EDGES = tuple(24.0 * days for days in (*range(1, 9), 14, 15))
STAY_CLASSES = (
  "under 1 day",
  *(f"{d} to {d + 1} days" for d in range(1, 8)),
  "8 to 14 days",
  "14 days or more",
)
AUTHORS_STAY_CLASSES = (*STAY_CLASSES[:8], "8 to 15 days", "15 days or more")


def _layout() -> tuple[tuple[str, ...], tuple[int, ...], tuple[int, ...]]:
  """Names of the columns, those of numbers, and where each channel begins."""
  names: list[str] = []
  begins = []
  for channel in CHANNELS:
    begins.append(len(names))
    names += [f"{channel.name} = {value}" for value in channel.values] or [channel.name]
  names += [f"{channel.name} observed" for channel in CHANNELS]
  return tuple(names), tuple(begins[i] for i in NUMBERS), tuple(begins)


COLUMNS, NUMBER_COLUMNS, BEGINS = _layout()
FLAG_COLUMNS = tuple(c for c in range(len(COLUMNS)) if c not in NUMBER_COLUMNS)


def codes() -> tuple[dict[str, float] | None, ...]:
  """Returns of every channel the value's number among `values`; None for a number."""
  return tuple(
    {value: float(code) for code, value in enumerate(channel.values)} if channel.values else None
    for channel in CHANNELS
  )


def normal_values() -> np.ndarray:
  """Returns the values before a first measurement, float64 `[17]`; of a category its number."""
  pairs = zip(CHANNELS, codes(), strict=True)
  return np.array([known[c.normal] if known else float(c.normal) for c, known in pairs])


def groups() -> tuple[tuple[int, ...], ...]:
  """Returns of every channel its columns: values first, then "observed"."""
  observed = len(COLUMNS) - len(CHANNELS)
  return tuple(
    (*range(begin, begin + max(1, len(channel.values))), observed + place)
    for place, (channel, begin) in enumerate(zip(CHANNELS, BEGINS, strict=True))
  )
