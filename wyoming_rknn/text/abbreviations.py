"""What a full stop means besides the end of a sentence, per language."""

from dataclasses import dataclass
from functools import lru_cache


@dataclass(frozen=True, slots=True)
class Abbreviations:
    """Words of one language that carry a full stop of their own, in lower case and without their last dot."""

    inner: frozenset[str] = frozenset()
    """Always followed by more of the sentence: "dr", "e.g"."""
    closing: frozenset[str] = frozenset()
    """May end a sentence; then a capital follows: "etc", "p.m"."""
    numbered: frozenset[str] = frozenset()
    """Abbreviations only before a number: "no" in "No. 5"."""
    ordinal_dot: bool = False
    """Whether "3." is how "third" is written."""
    ordinal_cues: frozenset[str] = frozenset()
    """Words before a number that make its dot an ordinal even if a capital follows: "am", "der"."""
    months: frozenset[str] = frozenset()
    """Capitalised words after an ordinal."""
    openers: frozenset[str] = frozenset()
    """Words that, capitalised after an initial or "U.S.", show that a new sentence began."""


def abbreviations_of(language: str) -> Abbreviations:
    """Return the table for a BCP-47 tag; languages without one get what is common to all."""
    return _read(primary_language(language))


def primary_language(tag: str) -> str:
    """Return the lower-case primary subtag of a language tag in any spelling: "de_AT" gives "de"."""
    return tag.replace("_", "-").split("-", 1)[0].strip().lower()


@lru_cache(maxsize=64)
def _read(language: str) -> Abbreviations:
    language = _ALIASES.get(language, language)
    rows = _TABLE.get(language, {})

    def words(kind: str) -> frozenset[str]:
        return frozenset(word.replace("_", " ") for word in f"{_COMMON.get(kind, '')} {rows.get(kind, '')}".split())

    return Abbreviations(
        inner=words("inner"),
        closing=words("closing"),
        numbered=words("numbered"),
        ordinal_dot=language in _ORDINAL_DOT.split(),
        ordinal_cues=words("cues"),
        months=words("months"),
        openers=words("openers"),
    )


_ORDINAL_DOT = "bs cs da de dsb et fi fo hr hsb hu is lb lv nb pl sk sl sr tr"

_COMMON = {
    "inner": "dr prof mr mrs ms st vs cf ca approx",
    "closing": "etc inc ltd co corp jr sr",
    "numbered": "nr p pp vol fig art §",
}

_TABLE: dict[str, dict[str, str]] = {
    "en": {
        "inner": "e.g i.e messrs rev hon gen col capt lt sgt cmdr gov pres sen rep mt ft ave blvd rd viz al dept est",
        "closing": "a.m p.m am pm u.s u.k u.s.a e.u a.k.a ph.d m.d b.a m.a b.sc m.sc bros esq sq",
        "numbered": "no nos ch sec eq ed jan feb mar apr jun jul aug sep sept oct nov dec",
        "openers": "the he she it they we you i this that these those there but and so if when what how why who where "
        "in on at for however meanwhile then now no yes my your his her its our their a an as after before while",
    },
    "de": {
        "inner": "bzw z.b d.h u.a u.ä i.d.r s.o s.u o.g u.u v.a z.t zzgl inkl exkl ggf evtl vgl hr fr frl dipl ing "
        "hrsg bsp sog str jhdt jh geb gest max min mind mio mrd tel abs bd ff dt engl frz "
        "mo di mi do fr sa so jan feb mär apr jun jul aug sep sept okt nov dez",
        "closing": "usw etc u.s.w uvm o.ä u.a.m",
        "numbered": "nr nrn kap s abb tab ziff",
        "cues": "am der die das dem den des im zum zur vom beim ab bis seit ein eine einen einem einer kein jeder "
        "jede jedes jeden dieser diese dieses diesen und oder sein seine seinen ihr ihre ihren mein meine meinen "
        "unser unsere unseren",
        "months": "januar jänner februar feber märz april mai juni juli august september oktober november dezember "
        "jan feb mär apr jun jul aug sep sept okt nov dez klasse stock stockwerk etage platz rang tag woche monat "
        "quartal jahrhundert mal runde kapitel auflage geburtstag jahrestag advent liga spieltag weltkrieg",
        "openers": "der die das ein eine er sie es wir ihr ich du und aber oder wenn als dann da so nun jetzt heute "
        "in im am an auf für mit bei von doch auch was wie wo wer warum",
    },
    "fr": {
        "inner": "m mm mme mlle mlles mmes me pr c.-à-d p.ex ex av bd éd env tél",
        "closing": "etc j.-c",
        "numbered": "n no art chap",
    },
    "es": {
        "inner": "ee sr sra sres sras srta d dña ud uds vd vds avda p.ej ej pág págs tel dpto gral lic ing",
        "closing": "etc uu ee.uu a.m p.m a.c d.c s.a",
        "numbered": "núm no n art cap",
    },
    "it": {
        "inner": "sig sig.ra sigg dott dott.ssa avv ing arch prof.ssa egr gent es p.es pag pagg tel",
        "closing": "ecc a.c d.c s.p.a",
        "numbered": "n num art cap",
    },
    "pt": {
        "inner": "sr sra srs srta d dra profa eng exmo p.ex ex av r pág tel gen cel",
        "closing": "etc a.c d.c s.a",
        "numbered": "n núm no art cap",
    },
    "nl": {
        "inner": "dhr mevr mw ir drs mr ing bijv bv d.w.z o.a m.b.t i.v.m t.a.v evt incl excl nl resp ca",
        "closing": "enz e.d",
        "numbered": "nr blz art",
    },
    "pl": {
        "inner": "np m.in tzn tzw tj ul al pl os św inż mgr hab ks im płk gen por r ok godz min tel pt wg",
        "closing": "itd itp r w p.n.e n.e",
        "numbered": "nr str rys art poz",
    },
    "cs": {
        "inner": "např tj tzv mj ing mgr mudr judr phdr doc bc p pí sv ul tř nám cca př resp popř",
        "closing": "atd apod aj n.l př.n.l",
        "numbered": "č str obr kap",
    },
    "sk": {
        "inner": "napr t.j tzv ing mgr mudr doc p sv ul cca resp",
        "closing": "atď a_pod",
        "numbered": "č str obr",
    },
    "da": {
        "inner": "f.eks bl.a dvs hr fru ca evt inkl ekskl kl pga mht vedr hhv jf",
        "closing": "osv m.m mv m.fl",
        "numbered": "nr s kap",
        "cues": "den d de",
    },
    "nb": {
        "inner": "f.eks bl.a dvs hr fru ca evt inkl ekskl kl pga mht jf",
        "closing": "osv m.m mv m.fl",
        "numbered": "nr s kap",
        "cues": "den d de",
    },
    "sv": {
        "inner": "t.ex bl.a dvs d.v.s hr fru ca ev inkl exkl kl s.k jfr",
        "closing": "osv o.s.v m.m m.fl",
        "numbered": "nr s kap",
    },
    "fi": {
        "inner": "esim ts ns mm ym n klo puh tri",
        "closing": "jne yms tms",
        "numbered": "nro s",
    },
    "hu": {
        "inner": "pl ún ill kb id ifj özv u dr",
        "closing": "stb",
        "numbered": "sz",
    },
    "ru": {
        "inner": "г ул д кв им т.е т.к т.н напр см ср проф акад гр тов",
        "closing": "др пр т.д т.п гг руб коп",
        "numbered": "№ стр рис",
    },
    "uk": {
        "inner": "м вул буд кв ім т.зв напр див проф акад гр",
        "closing": "ін т.д т.п рр грн",
        "numbered": "№ стор рис",
    },
    "ro": {
        "inner": "dl dna dra str ex bd sf ing",
        "closing": "etc ș.a",
        "numbered": "nr art pag",
    },
    "tr": {
        "inner": "sn örn bkz doç av yrd müh cad sok apt",
        "closing": "vb vs",
        "numbered": "no s",
    },
    "ca": {
        "inner": "sr sra dr dra av pl p.ex núm pàg tel",
        "closing": "etc",
        "numbered": "núm art",
    },
    "el": {
        "inner": "π.χ δηλ κ κα κος δρ βλ λεωφ",
        "closing": "κ.λπ κλπ κ.ά μ.μ π.μ",
        "numbered": "αρ σελ",
    },
}
_ALIASES = {"no": "nb", "nn": "nb"}
