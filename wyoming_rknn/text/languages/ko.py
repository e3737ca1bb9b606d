"""Korean: whole numbers stay digits, since their counters decide between two series of number words."""

from wyoming_rknn.text.languages.base import Language
from wyoming_rknn.text.numerals import Number

_MONTH_WORDS = {6: "유", 10: "시"}


class Korean(Language):
    """Korean."""

    spelling = "ko"
    point = "점"
    minus = "마이너스"
    plus = "플러스"
    below_zero = "영하 "
    to = "에서"
    times = "곱하기"
    at = "골뱅이"
    dot = "점"
    day_first = None
    units = """
        %  퍼센트
        °C  도
        °F  화씨 {}도
        °  도
        km  킬로미터
        m  미터
        cm  센티미터
        mm  밀리미터
        m²  제곱미터
        m³  세제곱미터
        km/h  시속 {} 킬로미터
        m/s  초속 {} 미터
        kg  킬로그램
        g  그램
        mg  밀리그램
        l L  리터
        ml mL  밀리리터
        kWh  킬로와트시
        kW  킬로와트
        W  와트
        V  볼트
        A  암페어
        Hz  헤르츠
        MB  메가바이트
        GB  기가바이트
        TB  테라바이트
        hPa  헥토파스칼
        dB  데시벨
    """
    currencies = """
        ₩ KRW  원
        € EUR  유로
        $ US$ USD  달러
        £ GBP  파운드
        ¥ JPY  엔
    """

    def cardinal(self, number: int, gender: str = "") -> str:
        """Return the Sino-Korean number, as with units."""
        return self.speller.cardinal(number, "spellout-cardinal-sinokorean")

    def is_safe(self, number: int) -> bool:
        """Leave every whole number: its counter decides."""
        return False

    def fraction(self, digits: str) -> str:
        """Return digit by digit."""
        return "".join(self.cardinal(int(digit)) for digit in digits)

    def clock(self, hour: int, minute: int) -> str:
        """Return "열 시 오 분": native hours, Sino-Korean minutes."""
        native = 1 <= hour <= 12
        spoken = self.speller.cardinal(hour, "spellout-cardinal-native-attributive") if native else self.cardinal(hour)
        return f"{spoken} 시 {self.cardinal(minute) + ' 분' if minute else ''}".rstrip()

    def date(self, day: int, month: int, year: int | None, before: str) -> str:
        """Return "이천이십육년 십일월 이십일일"."""
        text = f"{_MONTH_WORDS.get(month) or self.cardinal(month)}월 {self.cardinal(day)}일"
        return f"{self.number(Number(year))}년 {text}" if year else text


LANGUAGE = Korean
