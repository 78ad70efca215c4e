"""Tiny files in the official layout of KuaiRand-Pure."""

from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from corank.datasets.kuairand import LOGS, USERS, VIDEOS

_, STANDARD, _ = LOGS

LOG_HEADER = (
    "user_id,video_id,date,hourmin,time_ms,is_click,is_like,is_follow,is_comment,is_forward,is_hate,long_view,"
    "play_time_ms,duration_ms,profile_stay_time,comment_stay_time,is_profile_enter,is_rand,tab"
)
USER_HEADER = (
    "user_id,user_active_degree,is_lowactive_period,is_live_streamer,is_video_author,follow_user_num,"
    "follow_user_num_range,fans_user_num,fans_user_num_range,friend_user_num,friend_user_num_range,"
    "register_days,register_days_range," + ",".join(f"onehot_feat{n}" for n in range(18))
)
USER_ROWS = [
    '0,full_active,0,1,1,514,500+,150,"[100,1k)",34,"[30,60)",799,730+,1,1,29,949,1.0,0,0,14,135,6,3,0,0.0,1.0,0.0,0.0,0.0,0.0',
    '7,high_active,0,-124,0,5,"(0,10]",0,0,0,0,31,31-60,0,2,3,4,,0,1,2,3,4,0,0,,,,,,',
]
VIDEO_HEADER = (
    "video_id,author_id,video_type,upload_dt,upload_type,visible_status,video_duration,server_width,"
    "server_height,music_id,music_type,tag"
)
VIDEO_ROWS = [
    "10,100,NORMAL,2022-04-10,LongImport,0.0,87433.0,720.0,1280.0,9155697141,9.0,39",
    '11,100,AD,2022-04-09,Web,0.0,,720.0,1280.0,0,,"20,43"',
    "12,101,NORMAL,2022-04-09,Web,0.0,5000.0,720.0,1280.0,5,4.0,",
]


def exposure(
    user: int, video: int, china: str, click: int = 0, long_view: int = 0, hourmin: int = 0, tab: int = 1
) -> str:
    """A row of a log, at a time of China (UTC+8)."""
    time = int((datetime.fromisoformat(china + "+08:00")).timestamp() * 1000)
    return f"{user},{video},20220429,{hourmin},{time},{click},0,0,0,0,0,{long_view},900,5000,0,0,0,0,{tab}"


@dataclass
class Release:
    """The files of a release, to be changed by a test before they are written."""

    logs: dict[str, list[str]] = field(
        default_factory=lambda: {
            STANDARD: [exposure(0, 10, f"2022-04-{day}T12:00:00") for day in (28, 29, 30)]
        }
    )
    log_header: str = LOG_HEADER
    users: list[str] = field(default_factory=lambda: [USER_HEADER, *USER_ROWS])
    videos: list[str] = field(default_factory=lambda: [VIDEO_HEADER, *VIDEO_ROWS])

    def write(self, folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        files = {name: [self.log_header, *rows] for name, rows in self.logs.items()}
        for name, lines in (files | {USERS: self.users, VIDEOS: self.videos}).items():
            (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
        return folder


def release(folder: Path, rows: int) -> Path:
    """Write a release of so many exposures of two users and three videos, over five days."""
    exposures = []
    for n in range(rows):
        time = f"2022-04-{26 + n * 5 // rows}T{n % 24:02}:{n // 24 % 60:02}:00"
        exposures.append(
            exposure(7 * (n % 2), 10 + n % 3, time, click=int(n % 5 < 2), long_view=int(n % 5 < 1))
        )
    return Release(logs={STANDARD: exposures}).write(folder)
