"""Japanese: whole numbers stay digits, since counters change their reading; units are in kana.

Every engine reads kana, some read no Chinese characters.
"""

from wyoming_rknn.text.languages.base import Language


class Japanese(Language):
    """Japanese."""

    point = "てん"
    minus = "マイナス"
    plus = "プラス"
    below_zero = "れいか"
    to = "から"
    at = "アットマーク"
    dot = "ドット"
    day_first = None
    space = ""
    units = """
        % ％  パーセント
        °C  ど
        °F  かし{}ど
        °  ど
        km  キロメートル
        m  メートル
        cm  センチメートル
        mm  ミリメートル
        m²  へいほうメートル
        km/h  じそく{}キロメートル
        kg  キログラム
        g  グラム
        mg  ミリグラム
        l L  リットル
        ml mL  ミリリットル
        kWh  キロワットアワー
        kW  キロワット
        W  ワット
        V  ボルト
        A  アンペア
        Hz  ヘルツ
        MB  メガバイト
        GB  ギガバイト
        TB  テラバイト
        hPa  ヘクトパスカル
        dB  デシベル
    """
    currencies = """
        € EUR  ユーロ
        $ US$ USD  ドル
        £ GBP  ポンド
        ¥ ￥ JPY  えん
    """


LANGUAGE = Japanese
