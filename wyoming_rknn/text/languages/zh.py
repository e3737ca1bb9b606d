"""Chinese (Mandarin)."""

import re

from wyoming_rknn.text.languages.base import Currency, Language
from wyoming_rknn.text.numerals import Number

_DIGITS = "零一二三四五六七八九"
_YEAR = re.compile(r"(?<![\d.,])(\d{4})\s?(?=年)")
_DATE_WORDS = re.compile(r"(?<![\d.,])(\d{1,2})\s?(?=月|日|号|號)")
_TWO = re.compile(r"(?<![\d.,])2\s?(?=[个個只隻本张張条條位件家天辆輛台臺间間杯瓶碗块塊次遍双雙页頁口层層片份棵])")
_HOURS = re.compile(r"(?<![\d.,])(\d{1,2})\s?[点點](?:\s?(\d{1,2})\s?分)?")


class Chinese(Language):
    """Chinese (Mandarin); simplified characters, which the phonemisers read alike."""

    spelling = "zh"
    point = "点"
    minus = "负"
    plus = "加"
    below_zero = "零下"
    to = "到"
    times = "乘"
    at = "艾特"
    dot = "点"
    day_first = None
    space = ""
    scales = ("万", "亿", "百万", "千万")
    units = """
        % ％  百分之{}
        ‰  千分之{}
        °C  {}摄氏度
        °F  {}华氏度
        °  {}度
        km  {}公里
        m  {}米
        cm  {}厘米
        mm  {}毫米
        km²  {}平方公里
        m²  {}平方米
        m³  {}立方米
        µg/m³  {}微克每立方米
        km/h  {}公里每小时
        m/s  {}米每秒
        kg  {}公斤
        g  {}克
        mg  {}毫克
        l L  {}升
        ml mL  {}毫升
        kWh  {}千瓦时
        Wh  {}瓦时
        kW  {}千瓦
        MW  {}兆瓦
        W  {}瓦
        V  {}伏
        A  {}安
        mA  {}毫安
        mAh  {}毫安时
        Hz  {}赫兹
        kHz  {}千赫
        MHz  {}兆赫
        GHz  {}吉赫
        KB kB  {}千字节
        MB  {}兆字节
        GB  {}吉字节
        TB  {}太字节
        hPa  {}百帕
        dB  {}分贝
        lx  {}勒克斯
        kcal  {}千卡
        ms  {}毫秒
        s  {}秒
        min  {}分钟
        h  {}小时
    """
    currencies = """
        € EUR  {}欧元
        $ US$ USD  {}美元
        £ GBP  {}英镑
        ¥ ￥ CNY RMB  {}元
        JPY  {}日元
        HK$ HKD  {}港元
        NT$ TWD  {}新台币
    """
    fractions = """
        ½  二分之一|又二分之一
        ¼  四分之一|又四分之一
        ¾  四分之三|又四分之三
        ⅓  三分之一|又三分之一
        ⅔  三分之二|又三分之二
    """

    def cardinal(self, number: int, gender: str = "") -> str:
        """Return the number with 零 for its zeros, as it is said."""
        return self.speller.cardinal(number, "spellout-cardinal")

    def number(self, number: Number, gender: str = "") -> str:
        """Return the number without spaces."""
        fraction = self.point + self.fraction(number.fraction) if number.fraction else ""
        return f"{self.minus if number.negative else ''}{self.cardinal(number.whole)}{fraction}"

    def fraction(self, digits: str) -> str:
        """Return digit by digit."""
        return "".join(_DIGITS[int(digit)] for digit in digits)

    def money(self, number: Number, currency: Currency) -> str:
        """Return "五点九九元"."""
        fraction = number.fraction.rstrip("0")
        return self.quantity(Number(number.whole, fraction, number.negative), currency.main)

    def year(self, year: int) -> str:
        """Return digit by digit."""
        return self.fraction(str(year))

    def clock(self, hour: int, minute: int) -> str:
        """Return "十点零五分"."""
        spoken = "两" if hour == 2 else self.cardinal(hour)
        if not minute:
            return f"{spoken}点"
        return f"{spoken}点{'零' if minute < 10 else ''}{self.cardinal(minute)}分"

    def date(self, day: int, month: int, year: int | None, before: str) -> str:
        """Return "二零二六年十一月二十一日"."""
        return f"{self.year(year) + '年' if year else ''}{self.cardinal(month)}月{self.cardinal(day)}日"

    def rewrite(self, text: str) -> str:
        """Say years digit by digit, months, days, hours and two of a kind."""

        def hours(match: re.Match[str]) -> str:
            if int(match[1]) > 24 or int(match[2] or 0) > 59:
                return match[0]
            return self.clock(int(match[1]), int(match[2] or 0))

        text = _YEAR.sub(lambda m: self.year(int(m[1])), text)
        text = _DATE_WORDS.sub(lambda m: self.cardinal(int(m[1])), text)
        return _TWO.sub("两", _HOURS.sub(hours, text))


LANGUAGE = Chinese
