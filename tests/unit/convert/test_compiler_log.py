from wyoming_rknn.convert.compiler_log import CompilerLog, Layer

# Lines as the toolkit prints them; RK3576 has a column more, which is mostly empty.
RK3588 = """\
I rknn-toolkit2 version: 2.3.2
\rI Loading :   0%|       | 0/46 [00:00<?, ?it/s]\rI Loading : 100%|██████| 46/46 [00:00<00:00, 20000it/s]
\x1b[1;33mW\x1b[0m \x1b[1;33mload_onnx: The config.mean_values is None, zeros will be set for input 0!\x1b[0m
D RKNN: [17:27:14.827]                                Network Layer Information Table
D RKNN: [17:27:14.827] --------------------------------------------------------------
D RKNN: [17:27:14.827] ID   OpType             DataType Target InputShape                               OutputShape            Cycles(DDR/NPU/Total)    RW(KB)       FullName        
D RKNN: [17:27:14.827] 0    InputOperator      FLOAT16  CPU    \\                                        (1,192,55)             0/0/0                    0            InputOperator:z
D RKNN: [17:27:14.827] 1    Reshape            FLOAT16  CPU    (1,192,55),(4)                           (1,192,1,55)           0/0/0                    20           Reshape:z_rs
D RKNN: [17:27:14.827] 2    ConvLeakyRelu      FLOAT16  NPU    (1,192,1,55),(192,192,1,7),(192)         (1,192,1,55)           23637/32256/32256        525          Conv:/d/dec/conv_pre/Conv
D RKNN: [17:27:14.827] 52   OutputOperator     FLOAT16  CPU    (1,1,1,14080)                            \\                      0/0/0                    660          OutputOperator:output
D RKNN: [17:27:14.838] 46  ConvAdd        /d/dec/resblocks.6/Add_output_0-rs           FLOAT16   NC1HWC2      (1,24,1,14080) (1,16,1,14080,8) | 0x00483d80*0x0055fd80 0x000dc000
D RKNN: [17:27:14.838] Total Internal Memory Size: 5503.38KB
I rknn building ...
E RKNN: [17:27:14.807] Unkown op target: 0
I rknn building done.
"""  # noqa: E501, W291
RK3576 = """\
D RKNN: [17:30:47.336] 0    InputOperator      FLOAT16  CPU    \\                                        (1,192,55)             0/0/0                                 0            InputOperator:z
D RKNN: [17:30:47.336] 1    Reshape            FLOAT16  NPU    (1,192,55),(4)                           (1,192,1,55)           0/0/0                                 20           Reshape:z_rs
D RKNN: [17:30:47.336] 2    Pad                FLOAT16  CPU    (1,192,1,55),(4)                         (1,192,1,64)           1/2/3                    0.5          20           Pad:p
"""  # noqa: E501
REGTASK = (
    "E RKNN: [17:27:27.663] REGTASK: The bit width of field value exceeds the limit, target: lite, offset: 0x4038, "
    "shift = 16, limit: 0x1fff, value: 0x31b8"
)


def test_the_layer_plan_is_read():
    log = CompilerLog.parse(RK3588)

    assert log.layers == (
        Layer("Reshape", "CPU", "Reshape:z_rs"),
        Layer("ConvLeakyRelu", "NPU", "Conv:/d/dec/conv_pre/Conv"),
    )
    assert log.cpu_layers == ("Reshape:z_rs",)


def test_a_plan_with_a_column_more_is_read():
    assert CompilerLog.parse(RK3576).layers == (Layer("Reshape", "NPU", "Reshape:z_rs"), Layer("Pad", "CPU", "Pad:p"))


def test_a_good_build_has_no_errors():
    log = CompilerLog.parse(RK3588)
    assert (log.regtask, log.errors) == (0, ())


def test_register_overflows_are_counted_wherever_they_stand():
    # Native messages may follow a progress bar without a line's end of its own.
    text = f"{REGTASK}\n{REGTASK}\r\nI Loading : 100%|█\r{REGTASK}\n"
    assert CompilerLog.parse(text).regtask == 3


def test_errors_are_read_without_colours():
    text = "\x1b[1;31mE\x1b[0m \x1b[1;31mbuild: no such operator\x1b[0m\nE RKNN: [1:2] Meet unsupported input\nEnd\n"
    text += "I Loading : 100%|█\rE RKNN: [1:2] after a bar\n"
    assert CompilerLog.parse(text).errors == ("build: no such operator", "Meet unsupported input", "after a bar")


def test_an_empty_log_tells_nothing():
    assert CompilerLog.parse("") == CompilerLog(0, (), ())
